"""The report: plain data and an end summary that claims nothing the record does not hold."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from overlapped.record import Decision, FailureRecord, RunRecord, StageRecord, Times
from overlapped.report import Report
from overlapped.report.plain import ERROR_CHARS, ITEM_CHARS, cut, escape, plain, plain_error
from overlapped.report.text import rate, seconds


def make_stage(**changes: Any) -> StageRecord:
    """`fetch`: 400 calls of 100 ms, 20 in flight (mean), its limit found."""
    stage = StageRecord(
        name="fetch",
        verb="map",
        lane="coroutine",
        why="async def",
        limit=64,
        limit_range=(8, 128),
        reason="hold:no-gain",
        in_flight=0,
        ahead=0,
        items_in=400,
        items_out=400,
        calls=400,
        retries=0,
        failed=0,
        timeouts=0,
        parked=0,
        service_s=40.0,
        cpu_s=None,
        starved_s=0.4,
        blocked_s=0.4,
        paused_s=0.0,
        decisions=(Decision(0.1, 8, 16, "grow"), Decision(0.3, 16, 64, "grow")),
    )
    return dataclasses.replace(stage, **changes)


def make_record(**changes: Any) -> RunRecord:
    """A run of one stage that ended well in 2 s."""
    record = RunRecord(
        source="load_urls()",
        state="done",
        started_at=1_700_000_000.0,
        elapsed_s=2.0,
        items=400,
        failed=0,
        failures=(),
        cleanup_errors=(),
        stages=(make_stage(),),
        cpu_s=0.5,
        voluntary_switches=700,
        involuntary_switches=100,
        peak_rss_bytes=50 * 2**20,
    )
    return dataclasses.replace(record, **changes)


def told(**changes: Any) -> str:
    return str(Report(make_record(**changes)))


def failure(item: object, error: BaseException, *, stage: str = "fetch", attempts: int = 1) -> FailureRecord:
    return FailureRecord(stage=stage, item=item, error=error, attempts=attempts)


HOSTILE = [
    pytest.param("\x1b[2Jgone", "\x1b", id="csi"),
    pytest.param("\x1b]0;title\x07", "\x07", id="osc"),
    pytest.param("\x9b31mred", "\x9b", id="c1"),
    pytest.param("done\rfailed", "\r", id="carriage return"),
    pytest.param("one\ntwo", "\n", id="newline"),
    pytest.param("abc\u202egnp.exe", "\u202e", id="bidi override"),
    pytest.param("a\u2066b\u2069", "\u2066", id="bidi isolate"),
    pytest.param("a\u2028b", "\u2028", id="line separator"),
    pytest.param("a\u200bb", "\u200b", id="zero width"),
    pytest.param("a\ud800b", "\ud800", id="surrogate"),
    pytest.param("a\x00b\x7f", "\x7f", id="nul and del"),
]


@pytest.mark.parametrize(("text", "bad"), HOSTILE)
def test_hostile_text_is_shown_harmlessly(text: str, bad: str) -> None:
    assert bad not in escape(text)
    assert escape(text).isprintable()


def test_ordinary_text_is_shown_as_it_is() -> None:
    assert escape("Größe 大きさ é 🎉 C:\\tmp") == "Größe 大きさ é 🎉 C:\\tmp"


class Odd:
    """An object whose repr is `text`."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class OddError(Exception):
    """An exception whose text is hostile, or raises."""

    def __str__(self) -> str:
        if not self.args:
            raise RuntimeError("no text")
        return str(self.args[0])


@pytest.mark.parametrize(("text", "bad"), HOSTILE)
def test_a_hostile_item_stage_or_error_adds_no_line_and_no_control_character(text: str, bad: str) -> None:
    failures = tuple(
        failure(item, OddError(text), stage=text)
        for item in (text, Odd(text), [text], {text: text}, text.encode("utf-8", "replace"))
    )
    shown = told(
        failed=5,
        failures=failures,
        cleanup_errors=(OddError(text),),
        stages=(make_stage(name=text, reason=text),),
    )
    plain_one = told(
        failed=5,
        failures=tuple(failure(i, OddError("x"), stage="s") for i in range(5)),
        cleanup_errors=(OddError("x"),),
    )
    assert len(shown.splitlines()) == len(plain_one.splitlines())
    assert all(line.isprintable() for line in shown.splitlines())


class BrokenRepr:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_an_item_without_a_repr_and_an_error_without_text_are_still_named() -> None:
    assert "BrokenRepr" in plain(BrokenRepr())
    assert plain_error(OddError()).startswith("OddError: ")


@pytest.mark.parametrize(
    "item",
    [
        "x" * 10**6,
        b"x" * 10**6,
        list(range(10**5)),
        {"k" * 10**5: "v"},
        Odd("y" * 10**6),
        10**5000,
        [[[[[]]]]],
    ],
    ids=["str", "bytes", "list", "dict", "object", "int", "nested"],
)
def test_a_long_item_is_cut(item: object) -> None:
    assert 0 < len(plain(item)) <= ITEM_CHARS


def test_a_long_error_is_cut_and_says_so() -> None:
    shown = plain_error(ValueError("z" * 10**6))
    assert len(shown) == ERROR_CHARS
    assert shown.endswith("...")
    assert cut("abc", 3) == "abc"


def test_the_report_gives_the_records_numbers() -> None:
    record = make_record(failed=1, failures=(failure(1, ValueError("no")),), cleanup_errors=(OSError("shut"),))
    report = Report(record)
    assert (report.items, report.failed, report.elapsed_s) == (400, 1, 2.0)
    assert report.failures is record.failures
    assert report.stages is record.stages
    assert report.cleanup_errors is record.cleanup_errors


def test_a_report_is_a_frozen_value() -> None:
    report = Report(make_record())
    assert report == Report(make_record())
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.record = make_record()  # type: ignore[misc]  # that it is refused is the point


def test_to_dict_is_plain_json_with_failures_as_text() -> None:
    record = make_record(
        failed=1,
        failures=(failure({"a", "b\x1b"}, ValueError("no\nway"), attempts=3),),
        cleanup_errors=(OSError("shut"),),
    )
    data = json.loads(json.dumps(Report(record).to_dict(), allow_nan=False))
    assert data["failures"][0] | {"item": ""} == {
        "stage": "fetch",
        "item": "",
        "error": "ValueError: no\\nway",
        "attempts": 3,
    }
    assert data["cleanup_errors"] == ["OSError: shut"]
    assert data["stages"][0]["limit_range"] == [8, 128]
    assert data["stages"][0]["decisions"][1] == {
        "at_s": 0.3,
        "old": 16,
        "new": 64,
        "reason": "grow",
        "what": "limit",
        "evidence": "",
    }
    assert data.keys() == {"schema", *(field.name for field in dataclasses.fields(RunRecord))}
    assert data["stages"][0].keys() == {field.name for field in dataclasses.fields(StageRecord)}


def test_the_first_line_says_what_was_done() -> None:
    assert told().splitlines()[0] == "done     400 items in 2 s (200/s)   peak memory 50 MiB"


def test_a_flow_that_changes_the_number_of_items_says_both() -> None:
    first = told(items=7).splitlines()[0]
    assert "400 items in, 7 out, in 2 s (200/s)" in first


@pytest.mark.parametrize(
    ("state", "start"),
    [
        ("stopped", "stopped  early, after 400 items"),
        ("failed", "ended    by an error, after 400 items"),
        ("cancelled", "ended    cancelled, after 400 items"),
        ("running", "running  400 items"),
    ],
)
def test_the_first_line_says_how_the_run_ended(state: str, start: str) -> None:
    assert told(state=state).startswith(start)


def test_an_empty_run_is_one_line_without_claims() -> None:
    empty = make_stage(items_in=0, items_out=0, calls=0, service_s=0.0, starved_s=0.0, blocked_s=0.0, decisions=())
    shown = told(
        items=0,
        elapsed_s=0.0,
        stages=(empty,),
        cpu_s=0.0,
        voluntary_switches=0,
        involuntary_switches=0,
        peak_rss_bytes=0,
    )
    assert shown == "done     0 items in 0 us"
    assert told(stages=(), items=0, elapsed_s=0.0, cpu_s=0.0)


def test_where_gives_the_mean_in_flight_by_littles_law() -> None:
    assert "where    fetch  20.0 in flight (mean)" in told()  # 40 s of service in 2 s


def test_where_gives_the_shares_of_the_slots_time() -> None:
    shown = told(stages=(make_stage(service_s=5.0, starved_s=4.0, blocked_s=1.0),))
    assert "slots 50% in calls, 40% without items, 10% held up" in shown


def test_waiting_and_cpu_are_told_only_where_the_lane_knows_them() -> None:
    assert "calls 12% waiting, 88% CPU" in told(stages=(make_stage(lane="thread", service_s=10.0, cpu_s=8.8),))
    assert "% CPU" not in told()


def test_the_stage_that_sets_the_pace_is_named_only_with_evidence() -> None:
    full = Times(full_s=1.96, starved_s=0.04)
    shown = told(stages=(make_stage(times=full),), loop_cpu_s=0.2)
    assert (
        "verdict  fetch: all its slots were in calls 98% of the time; 64 at once, and more did not give more" in shown
    )
    assert "not this machine" in shown
    assert "all its slots" not in told(stages=(make_stage(times=Times(full_s=1.0, starved_s=1.0)),))
    assert "all its slots" not in told(stages=(make_stage(times=full, calls=5),))


def test_the_machine_is_not_excused_when_it_was_busy() -> None:
    shown = told(cpu_s=1.9, loop_cpu_s=1.5, stages=(make_stage(times=Times(full_s=2.0)),))
    assert "not this machine" not in shown
    assert "this process used 95% of one core" in shown


def test_a_given_limit_is_named_as_what_holds_the_slowest_stage() -> None:
    given = make_stage(limit=5, limit_range=(5, 5), reason="fixed", decisions=(), times=Times(full_s=2.0))
    shown = told(stages=(given,))
    assert "faster?  concurrency=5 was given" in shown
    assert "tuner" not in shown


def test_the_tuner_line_gives_the_limit_the_way_and_the_reason() -> None:
    assert "tuner    fetch: limit 64; tried 8 -> 16 -> 64 (hold:no-gain)" in told()


def test_a_long_way_shows_no_small_steps() -> None:
    many = tuple(Decision(float(n), n, n + 1, "grow") for n in range(1, 50))
    assert "tried ... 3 -> 5 -> 8 -> 12 -> 18 -> 27 -> 41 -> 64" in told(stages=(make_stage(decisions=many),))


def test_the_gain_is_an_estimate_with_its_basis() -> None:
    gain = next(line for line in told().splitlines() if line.startswith("gain"))
    assert gain == (
        "gain     about 40 s one call at a time (estimate: sum of service times), 2 s overlapped: about 20x"
    )


def test_no_gain_is_claimed_where_there_was_none() -> None:
    shown = told(stages=(make_stage(service_s=1.0),))
    assert "little to overlap" in shown
    assert not re.search(r"\dx", shown)


def test_context_switches_are_told_with_their_share_of_an_item() -> None:
    assert "switches 700 voluntary, 100 involuntary (2 an item)" in told()


def test_failed_items_are_grouped_with_first_examples() -> None:
    failures = (
        *(failure(f"/{n}", TimeoutError("late"), attempts=3) for n in range(4)),
        failure("/x", ValueError("bad"), stage="parse"),
    )
    lines = told(failed=5, failures=failures).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("failed"))
    assert lines[start] == "failed   5 items: 4 TimeoutError in fetch, 1 ValueError in parse"
    assert lines[start + 1] == "         fetch '/0': TimeoutError: late (3 attempts)"
    assert lines[start + 4] == "         parse '/x': ValueError: bad"
    assert len(lines) == start + 5


def test_counts_of_kept_failures_say_that_they_are_of_the_first_ones() -> None:
    shown = told(failed=5_000, failures=tuple(failure(n, ValueError("no")) for n in range(1_000)))
    assert "5,000 items: 1,000 ValueError in fetch (of the first 1,000)" in shown


def test_a_failed_run_says_first_what_it_ended_with_and_of_which_item() -> None:
    error = ValueError("no such page")
    lines = told(state="failed", error=error, failed=1, failures=(failure("/7", error),)).splitlines()
    assert lines[1] == "error    ValueError: no such page (fetch of '/7')"
    other = told(state="failed", error=OSError("the list is gone"), failed=1, failures=(failure("/7", error),))
    assert other.splitlines()[1] == "error    OSError: the list is gone"
    assert "error " not in told()


def test_clean_up_errors_are_never_lost() -> None:
    assert "cleanup  OSError: shut" in told(cleanup_errors=(OSError("shut"),))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 us"),
        (0.0000123, "12 us"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (2, "2 s"),
        (33.14, "33.1 s"),
        (2000, "2,000 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_rate_needs_time_to_have_passed() -> None:
    assert rate(5, 0.0) == ""
    assert rate(5, 2.0) == "2.5/s"
    assert rate(5000, 2.0) == "2,500/s"


def test_every_line_fits_a_hundred_columns() -> None:
    slow = make_stage(name="fetch_page", service_s=500.0, starved_s=100.0, blocked_s=100.0)
    thread = make_stage(name="parse", lane="thread", service_s=1.0, cpu_s=0.9)
    assert max(map(len, told(stages=(slow, thread)).splitlines())) <= 100


def test_a_run_that_was_broken_off_claims_no_gain() -> None:
    assert "gain  " not in told(state="failed")
    assert "gain  " not in told(state="cancelled")


def test_shares_are_not_told_of_a_stage_that_hardly_ran() -> None:
    assert "slots" not in told(stages=(make_stage(service_s=0.1, starved_s=0.0, blocked_s=0.0),))
