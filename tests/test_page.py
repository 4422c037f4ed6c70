"""The report as a page: one file, small for any run, harmless, readable, and read back as it was written."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import random
import re
from itertools import pairwise
from typing import Any

import pytest

from overlapped import Retry, UsageError, flow
from overlapped.record import Bin, Call, Decision, FailureRecord, Point, RunRecord, Stall, Times
from overlapped.report import Report, figures, files, page
from overlapped.report.data import NotARecord, to_dict
from overlapped.testing import run, virtual
from tests.browser import look_at, needs_browser, overlaps
from tests.test_report import HOSTILE, OddError, failure, make_record, make_stage

BAD = "<script>alert(1)</script>\x1b[31m\u202e&'\""


def huge(stages: int = 6) -> RunRecord:
    """A record with every list at its bound, and the longest texts."""
    chance = random.Random(1)  # noqa: S311 - a repeatable series
    kinds: Any = ("ok",) * 8 + ("failed", "retried")
    stage = make_stage(
        kept_calls=tuple(Call(n, n % 300, n / 50 + 0.001234567, chance.random(), kinds[n % 10]) for n in range(5_200)),
        points=tuple(Point(n / 10 + 0.0123456, n % 300, n % 200, n * 7, n * 1_000, n * 999) for n in range(400)),
        decisions=tuple(Decision(n / 9.7, n, n + 1.123456, BAD * 3, "limit", BAD * 5) for n in range(1_000)),
        latencies=tuple(Bin(2.0 ** (n / 8 - 20), 2.0 ** ((n + 1) / 8 - 20), 1_000 + n) for n in range(200)),
        times=Times(*[10.0] * 10),
        calls=10_000_000,
    )
    failures = tuple(failure(f"{n}{BAD}" * 9, ValueError(f"{n}{BAD}" * 20), stage=BAD) for n in range(1_000))
    return make_record(
        elapsed_s=104.0,
        stages=tuple(dataclasses.replace(stage, name=f"{n}{BAD * 9}") for n in range(stages)),
        failures=failures,
        failed=5_000,
        stalls=tuple(Stall(BAD * 9, BAD * 9, 3, 0.5, 0.2) for _ in range(200)),
        source=BAD * 9,
    )


def a_run(items: int = 60, **options: Any) -> RunRecord:
    async def fetch(item: int) -> int:
        await asyncio.sleep(0.1 + item % 5 / 50)
        if item % 20 == 7:
            raise ValueError(BAD)
        return item

    async def main() -> RunRecord:
        chain = flow(range(items)).map(fetch, name=BAD, retry=Retry(attempts=2, jitter=False)).map(fetch, name="two")
        return (await chain.arun(on_failure="keep", **options)).record

    return run(main())


# -- one file -------------------------------------------------------------------------------------------------


def test_a_report_is_below_300_kb_for_any_run_and_keeps_its_record():
    for stages in (1, 6, 40):
        text = page.page(huge(stages))
        assert len(text.encode()) <= page.MOST_BYTES


def test_nothing_is_fetched_and_no_script_may_run():
    text = page.page(a_run())
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)
    assert "default-src 'none'" in text
    assert re.findall(r"<script[^>]*>", text) == ['<script type="application/json" id="overlapped-run">']


def test_user_text_cannot_become_markup_or_end_the_record():
    text = page.page(huge(2))
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("</script>") == 1


@pytest.mark.parametrize(("bad", "what"), HOSTILE)
def test_hostile_text_is_shown_harmlessly_everywhere(bad, what):
    record = make_record(
        source=bad,
        failed=1,
        failures=(FailureRecord(bad, bad, OddError(bad), 1),),
        stages=(make_stage(name=bad, decisions=(Decision(0.1, 1, 2, bad, "limit", bad),)),),
        stalls=(Stall(bad, bad, 1, 1.0, 1.0),),
        made_by=bad,
    )
    if what != "\n":  # the page has lines of its own
        assert what not in page.page(record)
        assert what not in page.fragment(record)
    assert what not in page.headline(record) + page.provenance(record) + str(page.groups(record))


def test_the_record_comes_back_from_the_page(tmp_path):
    record = a_run()
    Report(record).save(tmp_path / "run.html")
    again = files.read(str(tmp_path / "run.html"))
    assert to_dict(again)["stages"][0]["times"] == to_dict(record)["stages"][0]["times"]
    assert (again.items, again.failed, again.stages[0].name) == (record.items, record.failed, BAD)
    assert str(Report(again)) == str(Report(record))


@pytest.mark.parametrize("text", ["", "<html></html>", "[]", "{", page.page(make_record())[:-400], "[" * 100_000])
def test_what_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "x.html").write_text(text)
    with pytest.raises(NotARecord):
        files.read(str(tmp_path / "x.html"))


@pytest.mark.parametrize(
    "record",
    [
        make_record(stages=(), items=0),
        make_record(stages=(make_stage(calls=0, items_in=0, items_out=0, service_s=0.0),), items=0, elapsed_s=0.0),
        make_record(stages=(make_stage(calls=1, latencies=(Bin(1e-9, 1.1e-9, 1),)),)),
        make_record(state="failed", started_at=0.0, cpu_s=0.0, peak_rss_bytes=0),
    ],
)
def test_runs_without_much_to_show_make_a_page_too(record):
    assert "<h1>" in page.page(record)


def test_a_flow_writes_its_report_and_trace_however_it_ends(tmp_path):
    async def fetch(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    flow(range(3)).map(fetch).run(report=tmp_path / "ok.html", trace=tmp_path / "ok.json")
    assert files.read(str(tmp_path / "ok.html")).state == "done"
    with pytest.raises(ValueError, match="three"):
        flow(range(9)).map(fetch).run(report=tmp_path / "bad.html")
    assert files.read(str(tmp_path / "bad.html")).state == "failed"


@pytest.mark.parametrize("option", ["report", "trace"])
def test_a_file_that_cannot_be_written_at_the_end_hides_no_error_of_the_run(tmp_path, option):
    error = ValueError("three")
    folder = tmp_path / "gone"

    async def fetch(item: int) -> int:
        if folder.exists():
            folder.rmdir()
        if item == 3:
            raise error
        return item

    for count in (3, 9):
        folder.mkdir()
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            flow(range(count)).map(fetch).run(**{option: folder / "run.json"})
        if count == 3:
            assert isinstance(raised.value, FileNotFoundError)
    assert raised.value is error
    assert any("could not be written" in note and "run.json" in note for note in error.__notes__)


def test_where_no_file_can_be_written_is_found_out_before_anything_runs(tmp_path, monkeypatch):
    ran: list[int] = []
    chain = flow([1]).map(ran.append)
    with pytest.raises(UsageError, match="no folder"):
        chain.run(report=tmp_path / "no" / "x.html")
    with pytest.raises(UsageError, match="cannot be written"):
        chain.run(trace=tmp_path)
    with pytest.raises(UsageError, match=r"report '': cannot be written: it names no file"):
        chain.run(report="")
    with pytest.raises(UsageError, match="trace 'new/': cannot be written: it names no file"):
        chain.run(trace="new/")
    with pytest.raises(UsageError, match=r"report 'a\\x00b'.*NUL"):
        chain.run(report="a\0b")
    with pytest.raises(UsageError, match=r"trace 'a\\x00b'.*NUL"):
        chain.run(trace="a\0b")
    no_path: Any = 7
    with pytest.raises(UsageError, match="report must be a path, got 7"):
        chain.run(report=no_path)
    with pytest.raises(UsageError, match="trace must be a path, got 7"):
        chain.run(trace=no_path)
    with pytest.raises(UsageError, match=r"report and trace must be two files.*x\.json"):
        chain.run(report=tmp_path / "x.json", trace=str(tmp_path / "." / "x.json"))
    (tmp_path / "link").symlink_to(tmp_path / "x.json")
    with pytest.raises(UsageError, match=r"report and trace must be two files"):
        chain.run(report=tmp_path / "x.json", trace=tmp_path / "link")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'overlapped\[standard\]'"):
        chain.run(report=tmp_path / "x.html")
    assert Report(make_record())._repr_html_() is None
    assert ran == []


@virtual
async def test_a_notebook_shows_the_report_without_a_script():
    report = await flow(range(30)).map(abs, on="inline").arun()
    shown = report._repr_html_()
    assert shown is not None
    assert "<script" not in shown
    assert "30 items" in shown


# -- figures --------------------------------------------------------------------------------------------------


def test_all_failures_and_the_slowest_calls_are_drawn_when_calls_are_left_out():
    calls = [Call(n, n % 4, n / 10, 0.05, "failed" if n % 500 == 0 else "ok") for n in range(10_000)]
    calls[77] = calls[77]._replace(took_s=9.0)
    kept = figures.thinned(calls, 1_000)
    assert len(kept) <= 1_100
    assert {call for call in calls if call.outcome == "failed"} <= set(kept)
    assert calls[77] in kept
    assert figures.thinned(calls[:900], 1_000) == calls[:900]


def test_up_to_4000_calls_each_has_a_bar():
    stage = make_stage(kept_calls=tuple(Call(n, n % 4, n / 10, 0.05) for n in range(4_000)), calls=4_000)
    drawn = str(figures.chronology(make_record(elapsed_s=400.0, stages=(stage,))))
    assert len(re.findall(r"M[\d.]+ [\d.]+h", drawn)) == 4_000
    assert "shown" not in drawn


def test_calls_whose_slot_is_not_known_are_packed_into_as_few_rows_as_it_takes():
    calls = [Call(n, -1, n * 0.5, 1.0) for n in range(10)]
    rows = figures.packed(calls)
    assert len(rows) == 2
    for row in rows:
        assert all(a.started_s + a.took_s <= b.started_s for a, b in pairwise(row))


def test_shares_add_up_to_the_run():
    record = make_record(stages=(make_stage(times=Times(full_s=1.5, starved_s=0.5)),))
    drawn = str(figures.shares(record))
    assert "in calls 75%" in drawn
    assert "no items 25%" in drawn


def test_the_moment_after_the_last_point_is_no_peak_of_throughput():
    points = tuple(Point(n / 10, 8, 8, 0, n * 10, n * 10) for n in range(100))
    record = make_record(elapsed_s=9.901, stages=(make_stage(points=points, calls=1_000),))
    rates = figures._rates(record.stages[0], record)
    assert max(rate for _, rate in rates) < 200  # and not 10,000, for 10 calls within a millisecond


def test_stages_that_are_left_out_of_the_pictures_are_told():
    record = make_record(stages=tuple(make_stage(name=f"stage {n}") for n in range(30)))
    told = "of 30 stages with calls, the chronology shows the first 20, limit and times 8"
    assert told in list(page.notes(record))
    assert told in page.page(record)
    assert not any("stages with calls" in note for note in page.notes(make_record()))


def test_a_name_from_right_to_left_does_not_turn_what_stands_beside_it():
    record = make_record(stages=(make_stage(name="\u0645\u0631"),))
    assert "\u2068\u0645\u0631\u2069 \u00b7 " in page.provenance(record)


def test_one_call_is_a_call():
    stage = make_stage(name="fetch", calls=1, kept_calls=(Call(0, 0, 0.1, 0.1),))
    assert "fetch: 1 call, 1 slot" in str(figures.chronology(make_record(stages=(stage,))))


def test_percentiles_are_named_at_their_lines_where_there_is_room():
    bins = (Bin(0.1, 0.11, 50), Bin(0.4, 0.44, 45), Bin(0.9, 0.99, 5))
    drawn = str(figures.histogram(make_stage(latencies=bins)))
    assert [mark for mark in (">p50<", ">p90<", ">p99<") if mark in drawn] == [">p50<", ">p90<", ">p99<"]
    close = str(figures.histogram(make_stage(latencies=(Bin(0.1, 0.11, 100),))))
    assert [mark for mark in (">p50<", ">p90<", ">p99<") if mark in close] == [">p50<"]


def test_while_a_run_goes_on_the_page_tells_what_set_the_pace_only_once_there_is_evidence():
    early = make_record(state="running", elapsed_s=1.0, stages=(make_stage(times=Times(full_s=1.0)),))
    late = dataclasses.replace(early, elapsed_s=5.0, stages=(make_stage(times=Times(full_s=5.0)),))
    assert "What set the pace" not in page.fragment(early)
    assert "What set the pace" in page.fragment(late)
    waiting = make_record(state="running", items=0, stages=(make_stage(items_in=0, items_out=0, calls=0),))
    assert "no item has come from the source yet" in page.fragment(waiting)


# -- in a real browser -------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("wide", [1400, 700])
def test_in_a_browser_shapes_are_drawn_nothing_is_fetched_and_nothing_overlaps(tmp_path, wide):
    found, console = look_at(tmp_path, page.page(a_run(400)), wide=wide)
    assert console == ""
    assert found["fetched"] == []
    assert found["wide"] <= found["window"]
    assert [svg["role"] for svg in found["svgs"]] == ["img"] * len(found["svgs"])
    labels = [svg["label"] for svg in found["svgs"]]
    assert labels[0].startswith("Chronology")
    assert any("limit, calls in flight" in label for label in labels)
    assert any("service times" in label for label in labels)
    for svg in found["svgs"]:
        assert svg["shapes"] > 3
        assert overlaps(svg) == []


@pytest.mark.slow
@needs_browser
def test_in_a_browser_hostile_names_are_text_and_the_scheme_is_followed(tmp_path):
    found, console = look_at(tmp_path, page.page(huge(2)))
    assert console == ""
    assert "(script>alert(1)(/script>" in found["text"]
    assert found["scripts"] == ["application/json", ""]  # the record, and this test's own
    assert found["paper"] == "rgb(255, 255, 255)"
    dark, _ = look_at(tmp_path, page.page(make_record()), "--blink-settings=preferredColorScheme=0")
    assert dark["paper"] == "rgb(20, 23, 28)"
    assert dark["ink"] == "rgb(230, 233, 239)"
