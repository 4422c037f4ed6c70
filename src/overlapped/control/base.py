"""What a controller is: finished calls in, a limit with its reason out."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

Outcome = Literal["ok", "ignore", "drop"]
"""What a call's end says about load: something / nothing / "overloaded" (time-out, 429, 503)."""


class Sample(NamedTuple):
    """One finished attempt, as a controller sees it.

    Attributes:
        now_s: when it finished, on the run's clock.
        started_s: when it started.
        outcome: "ok", "ignore" or "drop".
        in_flight: calls in flight just after it started, itself included.
        binding: True if the limit was what kept another call from starting. False marks samples
            a controller must not learn from: the stage was app-limited, blocked by a full
            downstream, waiting for parked items, keys or rate tokens, or paused.
    """

    now_s: float
    started_s: float
    outcome: Outcome
    in_flight: int
    binding: bool


@runtime_checkable
class Controller(Protocol):
    """Picks the limit of one stage in one run. Made by a `ControllerSpec`, used by one loop only."""

    @property
    def limit(self) -> int:
        """Most calls allowed in flight now, >= 1."""
        ...

    @property
    def reason(self) -> str:
        """Name of the rule that chose `limit`, such as "grow" or "hold:no-gain"."""
        ...

    def finished(self, sample: Sample) -> int:
        """Learn from one finished attempt and return the limit that holds from now on."""
        ...


@runtime_checkable
class ControllerSpec(Protocol):
    """What a user gives as `concurrency=`: immutable, and makes a new controller for every run."""

    def controller(self) -> Controller:
        """A new controller in its first state."""
        ...
