"""The trace: what the format asks of its events, one row a slot, and nothing lost that the record holds."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from itertools import pairwise
from typing import Any

from overlapped import Retry, flow
from overlapped.record import Call, Decision
from overlapped.report import Report, files
from overlapped.testing import run
from tests.test_report import make_record, make_stage

PHASES = {"X": {"dur"}, "C": {"args"}, "i": {"s"}, "M": {"args"}}
"""Phases of the Trace Event Format that we use, and what each must have."""


def check(trace: Any) -> list[dict[str, Any]]:
    """The events, each as the format asks."""
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    events: list[dict[str, Any]] = trace["traceEvents"]
    for event in events:
        assert PHASES[event["ph"]] <= event.keys()
        assert isinstance(event["name"], str)
        assert event["name"].isprintable()
        for field in ("pid", "tid"):
            assert isinstance(event[field], int)
        for field in ("ts", "dur"):
            if field in event:
                assert isinstance(event[field], int | float)
                assert event[field] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
    rows: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] == "X":
            rows.setdefault((event["pid"], event["tid"]), []).append(event)
    for row in rows.values():  # calls of one slot: one after the other
        row.sort(key=lambda event: event["ts"])
        assert all(a["ts"] + a["dur"] <= b["ts"] + 0.01 for a, b in pairwise(row))
    return events


def a_run() -> Report:
    async def fetch(item: int) -> int:
        await asyncio.sleep(0.1 + item % 5 / 50)
        if item % 10 == 7:
            raise ValueError(item)
        return item

    async def main() -> Report:
        chain = flow(range(60)).map(fetch, concurrency=6, retry=Retry(attempts=2, jitter=False)).map(fetch, name="two")
        return await chain.arun(on_failure="keep")

    return run(main())


def test_every_kept_call_is_an_event_of_its_slot_and_every_stage_a_process():
    report = a_run()
    events = check(report.trace())
    calls = [event for event in events if event["ph"] == "X"]
    assert len(calls) == sum(len(stage.kept_calls) for stage in report.stages)
    assert {event["tid"] for event in calls if event["pid"] == 1} == {1, 2, 3, 4, 5, 6}
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["fetch", "two"]
    assert {event["cat"] for event in calls} == {"ok", "retried", "failed"}


def test_a_part_of_the_calls_is_said_to_be_one():
    stage = make_stage(kept_calls=(Call(1, 0, 0.1, 0.2),), calls=1_000)
    events = check(Report(make_record(stages=(stage,))).trace())
    assert events[0]["args"]["name"] == "fetch, 1 of 1,000 calls"


def test_decisions_are_instants_and_infinity_is_none():
    stage = make_stage(decisions=(Decision(0.5, math.inf, 40.0, "cut:refused", "pace", "why"),))
    events = check(Report(make_record(stages=(stage,))).trace())
    (instant,) = [event for event in events if event["ph"] == "i"]
    assert instant["args"] == {"from": None, "to": 40.0, "why": "why"}


def test_hostile_names_and_an_empty_run_make_valid_traces():
    check(Report(make_record(stages=(make_stage(name="\x1b[2J\u202e<b>"),), source="\x00")).trace())
    assert check(Report(make_record(stages=())).trace()) == []


def test_a_name_that_ends_in_gz_is_compressed(tmp_path):
    report = a_run()
    for name in ("run.json", "run.json.gz"):
        files.save_trace(report.record, str(tmp_path / name))
    plain = json.loads((tmp_path / "run.json").read_text())
    with gzip.open(tmp_path / "run.json.gz", "rt") as file:
        assert json.load(file) == plain
    assert plain == json.loads(json.dumps(report.trace()))
