"""A run as Chrome trace events: one process a stage, one thread a slot; opens in ui.perfetto.dev and chrome://tracing.

The format: "Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Used of it:
complete events (X) for calls, counters (C), instants (i) for decisions, metadata (M) for names. Times are microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from overlapped.report.figures import packed
from overlapped.report.plain import cut, escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlapped.record import RunRecord, StageRecord

NAME_CHARS = 80


def trace(record: RunRecord) -> dict[str, Any]:
    """The whole trace: what is in the record's samples, so long runs show a part of their calls."""
    events: list[dict[str, Any]] = []
    for number, stage in enumerate(record.stages, 1):
        events += _stage(number, stage)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "source": cut(escape(record.source), NAME_CHARS),
            "state": record.state,
            "made_by": escape(record.made_by),
            "items": record.items,
            "failed": record.failed,
        },
    }


def _stage(pid: int, stage: StageRecord) -> Iterator[dict[str, Any]]:
    name = cut(escape(stage.name), NAME_CHARS)
    rows = packed(stage.kept_calls)
    shown = "" if len(stage.kept_calls) >= stage.calls else f", {len(stage.kept_calls):,} of {stage.calls:,} calls"
    yield _about(pid, 0, "process_name", {"name": f"{name}{shown}"})
    yield _about(pid, 0, "process_sort_index", {"sort_index": pid})
    for tid, row in enumerate(rows, 1):
        yield _about(pid, tid, "thread_name", {"name": f"slot {tid}"})
        for call in row:
            about: dict[str, Any] = {"item": call.number, "outcome": call.outcome}
            event = {
                "ph": "X",
                "name": name if call.outcome == "ok" else f"{name} ({call.outcome})",
                "cat": call.outcome,
                "pid": pid,
                "tid": tid,
                "ts": _us(call.started_s),
                "dur": _us(call.took_s),
                "args": about,
            }
            if call.outcome != "ok":
                event["cname"] = "terrible" if call.outcome == "failed" else "bad"
            yield event
    for point in stage.points:
        counted = {"limit": point.limit, "in flight": point.in_flight}
        yield {"ph": "C", "name": "calls", "pid": pid, "tid": 0, "ts": _us(point.at_s), "args": counted}
        queue = {"items": point.queue}
        yield {"ph": "C", "name": "queue", "pid": pid, "tid": 0, "ts": _us(point.at_s), "args": queue}
    for decision in stage.decisions:
        yield {
            "ph": "i",
            "s": "p",
            "name": f"{decision.what}: {escape(decision.reason)}",
            "pid": pid,
            "tid": 0,
            "ts": _us(decision.at_s),
            "args": {"from": _number(decision.old), "to": _number(decision.new), "why": escape(decision.evidence)},
        }


def _about(pid: int, tid: int, name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _us(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e6, 3)


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
