"""What every port must do: each job is called once, in order, within the limit, and nothing is left of it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.trays import DROPPED, TRAY_SIZE, Spread
from overlapped.testing.contracts.base import demand
from overlapped.testing.contracts.jobs import ERRORS, POLL_S, QUIET_S, SETTLE_S, Call, Use

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from overlapped.testing.contracts.jobs import MakePort

STRESS_JOBS: Final = 300

LONGEST_S: Final = 60.0
"""When a scenario that comes to no end is given up."""


def check_lane(make_port: MakePort, *, is_chunked: bool = False) -> None:
    """Put a port through everything a crew does with it; raises AssertionError when it falls short.

    It runs in real time, for less than half a second with threads. `fn` stands in a module and its items
    can be pickled, so ports to other processes can be checked.

    Args:
        make_port: makes the port; its places start when they are needed, or when it is opened. A port that
            awaits calls the twin of `fn`: `call_one_async`, `call_many_async` in `testing.contracts.jobs`.
        is_chunked: short jobs lie ready in its places, so two places may start them a little out of order.

    Example:
        >>> import time
        >>> from overlapped.lanes.thread import ThreadPort
        >>> check_lane(lambda fn, many: ThreadPort(lambda stack: fn, "check", clock=time.perf_counter, many=many))
    """
    for scenario, name in SCENARIOS.items():
        if is_chunked and scenario is _order:
            continue
        try:
            asyncio.run(_in_time(scenario(make_port)))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        except TimeoutError as error:
            raise AssertionError(f"{name}: nothing came of it for {LONGEST_S:g} s") from error


async def _in_time(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(LONGEST_S):
        await work


async def _calls(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(3)
        use.put(*range(8))
        use.put(*range(8, 12))
        await use.until_done(*range(12))
        demand(sorted(use.account("start")) == [*range(12)], f"calls made: {use.account('start')}")
        for number, outcome in use.outcomes.items():
            demand(
                (outcome.kind, outcome.value) == ("ok", number * 10), f"job {number} must give {number * 10}: {outcome}"
            )
            demand(0 < outcome.started_s <= outcome.ended_s, f"times that cannot be: {outcome}")
            demand(outcome.cpu_s >= 0 and 1 <= outcome.in_flight <= 3, f"numbers that cannot be: {outcome}")


async def _order_of_one(make_port: MakePort) -> None:
    await _in_order(make_port, 1)


async def _order(make_port: MakePort) -> None:
    await _in_order(make_port, 4)


async def _in_order(make_port: MakePort, limit: int) -> None:
    async with Use(make_port) as use:
        use.port.limit(limit)
        for first in range(0, 30, 10):
            use.put(*range(first, first + 10))
        await use.until_done(*range(30))
        # A job may be overtaken only by those that other places have begun meanwhile.
        early = [(n, at) for at, n in enumerate(use.account("start")) if n - at >= limit]
        demand(not early, f"limit {limit}: jobs start in their order, but {early[:3]} (job, place) were early")


async def _errors(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(2)
        for number, name in enumerate(ERRORS):
            use.put(number, does=name)
            use.put(100 + number)
            await use.until_done(number, 100 + number)
            outcome = use.outcomes[number]
            # From a coroutine, Python lets no StopIteration out.
            is_changed = name in ("StopIteration", "StopAsyncIteration") and type(outcome.value) is RuntimeError
            is_right = type(outcome.value) is ERRORS[name] or is_changed
            demand(outcome.kind == "error" and is_right, f"{name} came back as {outcome}")
            demand(use.outcomes[100 + number].kind == "ok", f"the call after {name}: {use.outcomes[100 + number]}")


async def _limits(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(2)
        use.put(*range(8), is_gated=True)
        await use.until_started(2)
        use.port.limit(4)
        await use.until_started(4)
        use.port.limit(1)
        use.let_go(0, 1, 2)
        await use.until_done(0, 1, 2)
        await use.until_started(4)
        use.let_go(3)
        await use.until_started(5)
        use.port.limit(3)
        await use.until_started(7)
        use.let_go()
        await use.until_done(*range(8))


async def _changes(make_port: MakePort) -> None:
    chance = random.Random(1)  # noqa: S311 - the same series each time is the point
    async with Use(make_port) as use:
        use.put(*range(STRESS_JOBS))
        while len(use.outcomes) < STRESS_JOBS // 3:
            use.port.limit(chance.randint(1, 6))
            await asyncio.sleep(0)
        for limit in (6, 5, 4, 3, 2, 1):  # quicker than the loop hears of the places that leave
            use.port.limit(limit)
            time.sleep(POLL_S)  # noqa: ASYNC251 - the loop is held up on purpose
        await use.until_done(*range(STRESS_JOBS))
        demand(len(use.account("start")) == STRESS_JOBS, f"{len(use.account('start'))} calls for {STRESS_JOBS} jobs")
        demand(use.most_at_once() <= 6, f"{use.most_at_once()} calls at once, the limit was 6 at most")


async def _withdraws(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(2)
        use.put(*range(6), is_gated=True)
        await use.until_started(2)
        back = use.port.withdraw()
        numbers = [number for number, _ in back]
        demand(numbers == [2, 3, 4, 5], f"withdraw() must give back the unstarted jobs 2 to 5, got {numbers}")
        demand(all(type(c) is Call and c.number == n for n, c in back), f"withdraw() must give the items back: {back}")
        demand(use.port.withdraw() == [], "a second withdraw() must give nothing")
        use.let_go()
        await use.until_done(0, 1)
        await use.until_started(2)
        use.port.put(back[:2])
        await use.until_done(2, 3)
        await use.until_started(4)


async def _shows(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(2)
        use.put(*range(3), is_gated=True)
        await use.until_started(2)
        kept = list(use.port.running())
        await use.until(  # in another process, it takes a moment until that is known
            lambda: math.inf not in use.running().values(), lambda: f"when these calls began is not told: {kept}"
        )
        kept = list(use.port.running())
        shown = use.running()
        demand(shown.keys() == {0, 1}, f"running() must show the calls of jobs 0 and 1, shows {shown}")
        use.let_go()
        await use.until_done(0, 1, 2)
        now = {running.number: running.started_s for running in kept}
        demand(now == shown, f"running() must give snapshots: {shown} became {now} when the calls ended")
        for number, started_s in shown.items():
            told = use.outcomes[number].started_s
            demand(told == started_s, f"running() said that job {number} started at {started_s}, its outcome {told}")
        await use.until(lambda: not use.running(), lambda: f"nothing runs, but running() shows {use.running()}")


async def _cancels(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(1)
        use.put(0, 1, is_gated=True)
        await use.until_started(1)
        answers = (use.port.cancel(77), use.port.cancel(0))
        demand(answers[0] in (True, False), f"cancel() must answer True or False, got {answers[0]!r}")
        if answers[1]:
            await use.until_done(0)
            demand(use.outcomes[0].kind == "error", f"cancel() said True, but the call gave {use.outcomes[0]}")
            await use.until_started(2)
        else:
            await use.settle()
            demand(0 not in use.outcomes, f"cancel() said False, but the call ended: {use.outcomes.get(0)}")
            demand(use.account("end") == [], "cancel() said False, but the call was ended")
            use.let_go(0)
            await use.until_done(0)
            demand(use.outcomes[0].kind == "ok", f"cancel() said False, but the call gave {use.outcomes[0]}")
        use.let_go()
        await use.until_done(1)


async def _hands_out(make_port: MakePort) -> None:
    count = 3 * TRAY_SIZE
    async with Use(make_port, many=True) as use:
        use.port.limit(1)
        use.put(0, does=f"yield {count}")
        taken: list[object] = []

        def is_new() -> bool:
            return len(use.parts.get(0, ())) > len(taken) or 0 in use.outcomes

        while 0 not in use.outcomes:
            await use.until(is_new, lambda: "it went no further")
            await use.settle()
            ahead = len(use.parts.get(0, ())) - len(taken)
            demand(
                ahead <= TRAY_SIZE, f"a generator may be {TRAY_SIZE} results ahead of what was taken, it was {ahead}"
            )
            taken = use.parts.get(0, [])[:]
            use.port.acknowledge(0, ahead)
        demand(taken == [*range(count)], f"{count} results must come in order, came {len(taken)}")
        demand(use.outcomes[0][1:3] == ("ok", DROPPED), f"a generator ends with DROPPED: {use.outcomes[0]}")
        use.put(1, does="yield 3 then ValueError")
        use.put(2, does="list 3")
        await use.until_done(1, 2)
        demand(use.parts[1] == [0, 1, 2], f"what came before the error must come: {use.parts.get(1)}")
        demand(use.outcomes[1].kind == "error", f"a generator that raises: {use.outcomes[1]}")
        value = use.outcomes[2].value
        whole = [*value.items] if isinstance(value, Spread) else use.parts.get(2)
        demand(whole == [0, 1, 2], f"a list is many results: {use.outcomes[2]}")


async def _stops_handing_out(make_port: MakePort) -> None:
    async with Use(make_port, many=True) as use:
        use.port.limit(1)
        use.put(0, does=f"yield {10 * TRAY_SIZE}")
        use.put(1, does="yield 2")
        await use.until(lambda: use.parts.get(0), lambda: "no result came")
        use.port.acknowledge(0, -1)
        await use.until_done(0, 1)
        demand(len(use.parts[0]) <= 2 * TRAY_SIZE, f"{len(use.parts[0])} results of a generator nobody wants")
        demand(use.account("end") == [0, 1], "a generator that nobody wants must be closed")
        demand(use.parts[1] == [0, 1], f"the call after it must give 2 results: {use.parts.get(1)}")
        use.port.acknowledge(0, 1)  # too late, which does no harm


async def _closes(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(2)
        use.put(0, 1)
        await use.until_done(0, 1)
        demand(await use.close(1.0) == 0, "nothing ran, so close() must return 0")
        demand(await use.close(0.0) == 0, "a second close() must return 0")


async def _closes_in_grace(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(1)
        use.put(0, 1, 2, is_gated=True)
        await use.until_started(1)
        closing = asyncio.ensure_future(use.close(QUIET_S))
        await asyncio.sleep(0)
        use.let_go()
        demand(await closing == 0, "the call ended within its grace, so close() must return 0")
        demand(use.outcomes.keys() == {0}, f"the call that ended must come back, and no other: {use.outcomes}")
        await use.until_started(1)


async def _abandons(make_port: MakePort) -> None:
    async with Use(make_port) as use:
        use.port.limit(2)
        use.put(0, 1, 2, is_gated=True)
        await use.until_started(2)
        use.let_go(0)
        await use.until_done(0)
        await use.until_started(3)
        left = await use.close(SETTLE_S)
        demand(left == 2, f"two calls did not end within their grace: close() must return 2, got {left}")
        use.let_go()
        await use.settle()


SCENARIOS: Final[dict[Callable[[MakePort], Coroutine[Any, Any, None]], str]] = {
    _calls: "calls",
    _order_of_one: "order of starts",
    _order: "order of starts in several places",
    _errors: "exceptions",
    _limits: "limit up and down",
    _changes: "a limit that changes all the time",
    _withdraws: "withdraw",
    _shows: "running",
    _cancels: "cancel",
    _hands_out: "many results",
    _stops_handing_out: "many results that nobody wants",
    _closes: "close",
    _closes_in_grace: "close while a call runs",
    _abandons: "close while a call does not end",
}
