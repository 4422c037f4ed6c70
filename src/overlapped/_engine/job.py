"""One item on its way through a stage, and what the user asked of that stage's calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from overlapped._engine.keys import Key
    from overlapped.control.base import ControllerSpec
    from overlapped.rate import Rate
    from overlapped.retry import Retry

    Emit = Callable[[list[object]], Awaitable[None]]


class Pending(NamedTuple):
    """What a call has returned already, if that turned out to be awaitable, and how to finish it."""

    value: object
    finish: Callable[[Emit], Awaitable[object]]


class Job:
    """One item on its way through a crew."""

    __slots__ = (
        "attempt",
        "has_emitted",
        "has_place",
        "index",
        "item",
        "key",
        "key_weight",
        "parts",
        "pending",
        "results",
        "token",
        "weight",
    )

    def __init__(self, index: int, item: object) -> None:
        self.index = index
        self.item = item
        self.attempt = 1
        self.key: Key | None = None
        self.key_weight = 1.0  # what its call takes from the rate of its key
        self.has_place = False  # among the calls of its key
        self.token: int | None = None  # of the rate, for the start to come: the number of pauses when it was taken
        self.weight = 1.0  # what that token counts
        self.has_emitted = False  # a part of its results is out: it cannot be called again
        self.parts: list[list[object]] = []  # of a batch that was split: those still to be called, the next one last
        self.results: list[object] | None = None  # and what came of those called already
        self.pending: Pending | None = None  # its call has been made, but for that


@dataclass(frozen=True, slots=True)
class CrewSpec:
    """What the user asked of one stage's calls. The words are those of `Flow.map`."""

    name: str
    verb: str
    ordered: bool
    concurrency: ControllerSpec
    fatal: bool  # a failure here ends the run: raise mode, and no later `.catch`
    many: bool = False  # a call may give many results (flat_map)
    weighs: bool = False  # items are batches: a failure counts for all of them
    bounds_bytes: bool = False
    retry: Retry | None = None
    timeout_s: float | None = None
    rate: Rate | None = None
    retry_after_cap_s: float = 300.0
