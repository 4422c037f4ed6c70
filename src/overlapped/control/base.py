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
        size: how many items the call was for, if AUTO makes them batches, else 1.
        retry_after_s: seconds for which the service wants no new calls, if it said so: it counts
            calls per second, and fewer at once would not help.
        is_too_large: the call was refused for its size.
        loop_cpu_s: CPU time of the loop's thread so far, a few ms old at most, s; None where it is not known.
    """

    now_s: float
    started_s: float
    outcome: Outcome
    in_flight: int
    binding: bool
    size: int = 1
    retry_after_s: float | None = None
    is_too_large: bool = False
    loop_cpu_s: float | None = None


@runtime_checkable
class Controller(Protocol):
    """Picks the limit of one stage in one run. Made by a `ControllerSpec`, used by one loop only.

    Two more attributes are heeded where a controller has them: `pace_per_s`, the most calls that may
    start in a second (`math.inf`: no bound), and `evidence`, the numbers behind its last decision, as text. What
    chose the pace may be an object of its own, `paced_by`, with a `reason` and `evidence` of that.
    """

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
