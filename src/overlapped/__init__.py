"""Describe what to do with each item; `overlapped` overlaps all the waiting with all the work.

>>> from overlapped import flow
>>> flow(range(3)).map(lambda x: x + 1).collect()
[1, 2, 3]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from overlapped._version import __version__ as __version__
from overlapped.control.auto import AUTO
from overlapped.errors import UsageError
from overlapped.flow import Flow, concat, flow, merge, zip_

if TYPE_CHECKING:
    from overlapped._engine.failure import Failure
    from overlapped._engine.feed import Feed, Through
    from overlapped._engine.scope import Scope
    from overlapped.control.base import Controller, ControllerSpec, Sample
    from overlapped.errors import (
        CallTimeout,
        HostDied,
        OverlappedError,
        Overloaded,
        RemoteError,
        StuckCalls,
        TooLarge,
        TooManyFailures,
    )
    from overlapped.rate import Rate
    from overlapped.record import FailureRecord, RunRecord, StageRecord
    from overlapped.report.report import Report
    from overlapped.retry import Retry
    from overlapped.sinks.jsonl import Jsonl
    from overlapped.sinks.sqlite import Sqlite
    from overlapped.stages.base import Seat, Stage

_LAZY = {  # imported when first asked for (PEP 562): sqlite3 and json are not everybody's
    **dict.fromkeys(("Controller", "ControllerSpec", "Sample"), "overlapped.control.base"),
    **dict.fromkeys(
        (
            *("CallTimeout", "HostDied", "OverlappedError", "Overloaded", "RemoteError", "StuckCalls"),
            *("TooLarge", "TooManyFailures"),
        ),
        "overlapped.errors",
    ),
    **dict.fromkeys(("FailureRecord", "RunRecord", "StageRecord"), "overlapped.record"),
    "Rate": "overlapped.rate",
    "Report": "overlapped.report.report",
    "Retry": "overlapped.retry",
    "Jsonl": "overlapped.sinks.jsonl",
    "Sqlite": "overlapped.sinks.sqlite",
    **dict.fromkeys(("Seat", "Stage"), "overlapped.stages.base"),
    # what a stage of one's own is made of (docs/own-parts.md)
    "Failure": "overlapped._engine.failure",
    **dict.fromkeys(("Feed", "Through"), "overlapped._engine.feed"),
    "Scope": "overlapped._engine.scope",
}

__all__ = [
    "AUTO",
    "CallTimeout",
    "Controller",
    "ControllerSpec",
    "Failure",
    "FailureRecord",
    "Feed",
    "Flow",
    "HostDied",
    "Jsonl",
    "OverlappedError",
    "Overloaded",
    "Rate",
    "RemoteError",
    "Report",
    "Retry",
    "RunRecord",
    "Sample",
    "Scope",
    "Seat",
    "Sqlite",
    "Stage",
    "StageRecord",
    "StuckCalls",
    "Through",
    "TooLarge",
    "TooManyFailures",
    "UsageError",
    "concat",
    "flow",
    "merge",
    "zip_",
]


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
