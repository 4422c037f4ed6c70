"""A run's record as plain data for JSON, and back: the schema that docs/account.md describes."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from overlapped.record import Bin, Call, Decision, FailureRecord, Point, Remark, RunRecord, StageRecord, Stall, Times
from overlapped.report.plain import plain, plain_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCHEMA: Final = "overlapped.run/1"
"""Name and version: fields are added under the same number; one that goes or changes its meaning makes a new one."""

DIGITS: Final = 6
"""Significant digits of times in the long lists: a microsecond in a second."""


def to_dict(record: RunRecord) -> dict[str, Any]:
    """Numbers, lists and text; items and exceptions as text. JSON knows no infinity: None."""
    data = {"schema": SCHEMA} | _fields(record)
    data["failures"] = [
        {
            "stage": failure.stage,
            "item": plain(failure.item),
            "error": plain_error(failure.error),
            "attempts": failure.attempts,
        }
        for failure in record.failures
    ]
    data["error"] = None if record.error is None else plain_error(record.error)
    data["cleanup_errors"] = [plain_error(error) for error in record.cleanup_errors]
    data["stages"] = [_stage(stage) for stage in record.stages]
    data["stalls"] = [stall._asdict() for stall in record.stalls]
    data["loop_lines"] = [list(line) for line in record.loop_lines]
    return data


def _stage(stage: StageRecord) -> dict[str, Any]:
    return _fields(stage) | {
        "limit_range": list(stage.limit_range),
        "batch_size_range": list(stage.batch_size_range),
        "decisions": [_fields(decision) for decision in stage.decisions],
        "times": stage.times._asdict(),
        "latencies": _rows(stage.latencies),
        "kept_calls": _rows(stage.kept_calls),
        "points": _rows(stage.points),
        "remarks": [remark._asdict() for remark in stage.remarks],
    }


def _fields(value: Any) -> dict[str, Any]:
    """The fields of one dataclass, not copied deeper: items may be anything."""
    named = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: None if value == math.inf else value for name, value in named.items()}


def _rows(values: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [[_short(value) if isinstance(value, float) else value for value in row] for row in values]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


# -- back ----------------------------------------------------------------------------------------------


class Recalled:
    """An item of which only the text is known."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class NotARecord(ValueError):
    """What was read is no record of a run, or one that this version does not know."""


def from_dict(data: Any) -> RunRecord:
    """The record again; of items and exceptions there is the text only.

    Raises:
        NotARecord: it is something else.
    """
    if not isinstance(data, dict) or not str(data.get("schema", "")).startswith("overlapped.run/"):
        raise NotARecord("this is no record of a run: it names no schema overlapped.run/...")
    if data["schema"] != SCHEMA:
        raise NotARecord(f"this record is of schema {data['schema']!r}, this version knows {SCHEMA!r}")
    try:
        return RunRecord(
            **_known(
                RunRecord,
                data
                | {
                    "failures": tuple(_failure(failure) for failure in data["failures"]),
                    "error": _error(data["error"]) if data.get("error") else None,
                    "cleanup_errors": tuple(_error(text) for text in data["cleanup_errors"]),
                    "stages": tuple(_stage_of(stage) for stage in data["stages"]),
                    "stalls": tuple(Stall(**stall) for stall in data["stalls"]),
                    "loop_lines": tuple((str(place), int(times)) for place, times in data["loop_lines"]),
                },
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotARecord(f"this record cannot be read: {type(error).__name__}: {error}") from error


def _stage_of(data: dict[str, Any]) -> StageRecord:
    return StageRecord(
        **_known(
            StageRecord,
            data
            | {
                "limit_range": tuple(data["limit_range"]),
                "batch_size_range": tuple(data["batch_size_range"]),
                "pace_per_s": math.inf if data["pace_per_s"] is None else data["pace_per_s"],
                "decisions": tuple(Decision(**_known(Decision, each)) for each in data["decisions"]),
                "times": Times(**data["times"]),
                "latencies": tuple(Bin(*row) for row in data["latencies"]),
                "kept_calls": tuple(Call(*row) for row in data["kept_calls"]),
                "points": tuple(Point(*row) for row in data["points"]),
                "remarks": tuple(Remark(**remark) for remark in data.get("remarks", ())),
            },
        )
    )


def _known(kind: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that a later version has added."""
    return {field.name: data[field.name] for field in fields(kind) if field.name in data}


def _failure(data: dict[str, Any]) -> FailureRecord:
    return FailureRecord(data["stage"], Recalled(data["item"]), _error(data["error"]), data["attempts"])


def _error(text: str) -> BaseException:
    """An exception of the same name and text: for reading only, never raised."""
    name, _, message = text.partition(": ")
    kind = type(name if name.isidentifier() else "Error", (Exception,), {})
    error: BaseException = kind(message) if message else kind()
    return error
