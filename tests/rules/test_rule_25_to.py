"""Rule 25: `.to(sink)` is last and one a flow; items land in it, then go on."""

from __future__ import annotations

import inspect
import json
import threading
from typing import Any

import pytest

from overlapped import Flow, Jsonl, Sqlite, UsageError
from tests.rules.kit import Pulled, concat, fail_at, flow, in_lane, merge, outcome, same, zip_


class Memory:
    """A sink that remembers."""

    def __init__(self, refuses: Any = (), fails_on: Any = None, open_fails: bool = False, close_fails: bool = False):
        self.refuses = refuses
        self.fails_on = fails_on
        self.open_fails = open_fails
        self.close_fails = close_fails
        self.rows: list[Any] = []
        self.batches: list[int] = []
        self.events: list[Any] = []
        self.threads: set[int] = set()

    def describe(self) -> str:
        return "memory"

    def open(self) -> Any:
        self.threads.add(threading.get_ident())
        if self.open_fails:
            raise OSError("open")
        self.events.append("open")
        return self

    def write(self, batch: Any) -> dict[int, Exception]:
        self.threads.add(threading.get_ident())
        if self.fails_on is not None and self.fails_on in batch:
            raise OSError("disk full")
        self.batches.append(len(batch))
        refused: dict[int, Exception] = {i: TypeError(item) for i, item in enumerate(batch) if item in self.refuses}
        self.rows.extend(item for i, item in enumerate(batch) if i not in refused)
        return refused

    def close(self, ok: bool) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(("close", ok))
        if self.close_fails:
            raise OSError("close")


def test_items_land_and_then_go_on(source, way, lane):
    sink = Memory()
    chain = flow(Pulled(total=300).of(source)).map(in_lane(lane, same), on=lane, concurrency=3).to(sink)
    assert outcome(chain, way) == (list(range(300)), None)
    assert sink.rows == list(range(300))
    assert sink.events == ["open", ("close", True)]


def test_an_item_goes_on_only_once_it_is_written(way):
    sink = Memory()
    seen: list[bool] = []
    chain = flow(range(3000)).to(sink)
    if way == "for":
        seen.extend(n in sink.rows for n in chain)
    else:
        values, _ = outcome(chain, way)
        assert len(values) == 3000
    assert all(seen)


def test_a_sink_has_a_thread_of_its_own():
    sink = Memory()
    flow(range(100)).map(same).to(sink).run()
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads


def test_what_queues_while_a_write_runs_is_written_at_once():
    sink = Memory()
    flow(range(5000)).to(sink).run()
    assert sum(sink.batches) == 5000
    assert max(sink.batches) > 100


def test_a_failing_open_ends_the_run_before_the_source_is_pulled(source, way):
    pulled = Pulled(total=5)
    sink = Memory(open_fails=True)
    values, error = outcome(flow(pulled.of(source)).to(sink), way, on_failure="keep")
    assert values == []
    assert repr(error) == "OSError('open')"
    assert (pulled.began, pulled.count) == (0, 0)


def test_a_failing_write_ends_the_run_in_keep_mode_too(way):
    sink = Memory(fails_on=7)
    values, error = outcome(flow(Pulled(total=100).of("generator")).to(sink), way, on_failure="keep")
    assert repr(error) == "OSError('disk full')"
    assert values == sink.rows  # exactly what was written was delivered
    assert sink.events[-1] == ("close", False)


def test_a_failing_close_is_raised(way):
    _, error = outcome(flow(range(5)).to(Memory(close_fails=True)), way)
    assert repr(error) == "OSError('close')"


def test_an_item_that_a_sink_refuses_is_that_items_failure(way):
    sink = Memory(refuses=(3, 5))
    report = flow(range(8)).to(sink).run(on_failure="keep")
    assert (report.items, report.failed) == (6, 2)
    assert sink.rows == [0, 1, 2, 4, 6, 7]
    assert {f.item for f in report.failures} == {3, 5}
    values, error = outcome(flow(range(8)).to(Memory(refuses=(3, 5))), way)
    assert values == [0, 1, 2]
    assert type(error) is TypeError


def test_failures_do_not_land(way):
    sink = Memory()
    values, error = outcome(flow(range(5)).map(fail_at(2)).to(sink), way, on_failure="keep")
    assert (values, error) == ([0, 1, 3, 4], None)
    assert sink.rows == [0, 1, 3, 4]


def test_in_raise_mode_what_came_before_the_failure_has_landed(way):
    sink = Memory()
    values, error = outcome(flow(range(50)).map(fail_at(20), concurrency=4).to(sink), way)
    assert values == list(range(20))
    assert repr(error) == "ValueError(20)"
    assert sink.rows[:20] == list(range(20))
    assert sink.events[-1][0] == "close"


def test_drain_closes_a_sink_in_order():
    sink = Memory()
    with flow(Pulled().of("generator")).to(sink).open() as items:
        next(items)
        items.drain()
        list(items)
    assert sink.events == ["open", ("close", True)]
    assert sink.rows == list(range(len(sink.rows)))


@pytest.mark.parametrize("verb", ["map", "filter", "take", "batch", "flatten", "catch", "through", "to"])
def test_nothing_comes_after_a_sink(verb):
    arguments: dict[str, list[Any]] = {
        "take": [1],
        "batch": [2],
        "flatten": [],
        "catch": [ValueError],
        "to": [Memory()],
    }
    with pytest.raises(UsageError, match="a sink comes last"):
        getattr(flow([1]).to(Memory()), verb)(*arguments.get(verb, [same]))


def test_a_flow_with_a_sink_is_no_source():
    landed = flow([1]).to(Memory())
    for use in (flow, merge, concat, zip_):
        with pytest.raises(UsageError):
            use(landed)


@pytest.mark.parametrize("sink", [None, "out.jsonl", 1, Memory, Jsonl, object()])
def test_what_is_no_sink_is_refused_when_written(sink):
    with pytest.raises(UsageError, match="to"):
        flow([1]).to(sink)


def test_jsonl_and_sqlite_land(tmp_path):
    rows = [{"n": n, "text": "é\n"} for n in range(50)]
    flow(rows).map(same).to(Jsonl(tmp_path / "out.jsonl")).run()
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()] == rows
    report = flow(rows).map(same).to(Sqlite(tmp_path / "out.db", table="pages")).run()
    assert report.items == 50


@pytest.mark.parametrize("call", ["collect", "acollect", "open"])
def test_a_journal_belongs_to_run_and_arun_only(call):
    assert "journal" not in inspect.signature(getattr(Flow, call)).parameters


def test_using_may_stand_behind_to(way):
    sink = Memory()
    chain = flow([1]).map(lambda n, it: n + it).to(sink).using(it=lambda: 1)
    assert outcome(chain, way) == ([2], None)
    assert sink.rows == [2]
