"""What every controller must do: a limit with a reason, the same for the same samples, never below 1."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from overlapped.control.base import Controller, ControllerSpec, Outcome, Sample
from overlapped.testing.contracts.base import demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SAMPLES: Final = 3_000
"""How many finished calls each of a controller's checks feeds it: past any ramp."""


def check_controller(make_spec: Callable[[], ControllerSpec], *, most: int | None = None) -> None:
    """Put a controller through calm, storm, silence and noise; raises AssertionError when it falls short.

    Args:
        make_spec: makes the spec, equal each time.
        most: the largest limit that it may ever choose, if it has one.

    Example:
        >>> from overlapped.control.fixed import Fixed
        >>> check_controller(lambda: Fixed(5), most=5)
    """
    spec = make_spec()
    demand(isinstance(spec, ControllerSpec), f"{spec!r} has no controller()")
    for name in ("calm", "storm", "noise", "no time at all", "recovery"):
        first = _feed(spec.controller(), name, most)
        demand(first == _feed(spec.controller(), name, most), f"two controllers of one spec differ in {name}")
        demand(first == _feed(make_spec().controller(), name, most), f"two equal specs differ in {name}")
    _check_holds_when_not_binding(make_spec, most)


def _feed(controller: Controller, name: str, most: int | None) -> list[tuple[int, str]]:
    """Every limit with its reason, for one of the kinds of weather."""
    seen = [_checked(controller, most)]
    for sample in _weather(controller, name):
        limit = controller.finished(sample)
        seen.append(_checked(controller, most))
        demand(limit == seen[-1][0], f"finished() returned {limit}, but limit is {seen[-1][0]}")
    return seen


def _checked(controller: Controller, most: int | None) -> tuple[int, str]:
    limit, reason = controller.limit, controller.reason
    demand(type(limit) is int, f"a limit must be an int, got {limit!r}")
    demand(limit >= 1, f"a limit below 1 makes no progress: {limit} ({reason})")
    demand(most is None or limit <= most, f"limit {limit} is above the most allowed, {most} ({reason})")
    demand(isinstance(reason, str), f"a reason must be text, got {reason!r}")
    demand(bool(reason), f"limit {limit} has no reason")
    return limit, reason


def _weather(controller: Controller, name: str) -> Iterator[Sample]:
    """Finished calls of a stage that always has the limit's number of calls in flight."""
    chance = random.Random(1)  # noqa: S311 - the same series each time is the point
    now_s = 0.0
    for number in range(SAMPLES):
        limit = controller.limit
        service_s = 0.0 if name == "no time at all" else 0.1
        outcome: Outcome = "ok"
        if name == "storm" or (name == "recovery" and number < SAMPLES // 3):
            outcome = "drop"
        elif name == "noise":
            service_s = chance.lognormvariate(-3, 2)
            outcome = chance.choice(("ok", "ok", "ok", "ignore", "drop"))
        now_s += service_s / limit
        binding = name != "noise" or chance.random() < 0.8
        yield Sample(now_s, max(0.0, now_s - service_s), outcome, limit, binding)


def _check_holds_when_not_binding(make_spec: Callable[[], ControllerSpec], most: int | None) -> None:
    """Fast answers while nothing wanted more slots say nothing about more slots."""
    for warm_up in (0, SAMPLES):
        controller = make_spec().controller()
        highest = controller.limit
        now_s = 0.0
        for number in range(warm_up + SAMPLES):
            binding = number < warm_up
            in_flight = controller.limit if binding else 1
            now_s += 0.1 / in_flight
            controller.finished(Sample(now_s, max(0.0, now_s - 0.1), "ok", in_flight, binding))
            limit, reason = _checked(controller, most)
            demand(
                binding or limit <= highest,
                f"the limit grew from {highest} to {limit} ({reason}) on samples that are not binding",
            )
            highest = max(highest, limit)
