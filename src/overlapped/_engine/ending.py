"""Waits for all that a run has started, however often it is cancelled, and tells of what is late."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

from overlapped._engine.scope import CLOCK_STEP_S, GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable


class Ending:
    """The end of one run: whoever takes it down waits here, and a cancellation of the waiter changes nothing.

    Args:
        loop: the run's.
        errors: receives what closing raised.
    """

    __slots__ = ("_is_hurried", "_late", "errors", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, errors: list[BaseException]) -> None:
        self.loop = loop
        self.errors = errors
        self._late: list[asyncio.Task[Any]] = []  # closes something, beyond its grace
        self._is_hurried = False

    def hurry(self) -> None:
        """Whoever waits for the end has been cancelled: what closes for longer than its grace is cancelled, too."""
        self._is_hurried = True
        late, self._late = self._late, []
        for task in late:
            task.cancel()

    async def cancel(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Cancel `tasks`, and those that are added meanwhile, and wait; one that goes on after a grace is named."""
        for task in tasks:
            if not task.cancelling():  # once is enough: a second one would cut its clean-up short
                task.cancel()
        named: set[asyncio.Task[Any]] = set()
        while pending := [task for task in tasks if not task.done()]:
            before = self.loop.time()
            await _wait(pending, GRACE_S)
            if self.loop.time() - before < GRACE_S:
                continue
            for task in tasks:
                if not task.done() and task not in named:
                    named.add(task)
                    self._warn(
                        f"{task.get_name().removeprefix('overlapped:')} ignores its cancellation; waiting for it"
                    )

    async def outlast(self, tasks: Collection[asyncio.Task[Any]], late: str) -> None:
        """Wait until all of `tasks` have ended; `late` tells of more than a grace.

        From then on they are cancelled, once, as soon as somebody who waits for the end has been.
        """
        late_s = self.loop.time() + GRACE_S
        while not _all_done(tasks) and (left_s := late_s - self.loop.time()) > CLOCK_STEP_S:
            await _wait(tasks, left_s)
        if not _all_done(tasks):
            self._warn(late)
            self._late = list(tasks)
            if self._is_hurried:
                self.hurry()
        while not _all_done(tasks):
            await _wait(tasks, None)
        self._late = []

    async def finish(self, *works: Callable[[], Coroutine[object, object, object]], late: str = "") -> None:
        """Do all of `works` to their end; their errors are kept."""
        left = set(works)

        async def finish(work: Callable[[], Coroutine[object, object, object]]) -> None:
            left.discard(work)
            try:
                await work()
            except BaseException as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                self.errors.append(error)  # one is never lost

        while left:  # a loop that ends cancels every task, even those that have not begun
            tasks = [asyncio.Task(finish(work), loop=self.loop, name="overlapped:close") for work in left]
            if late:
                await self.outlast(tasks, late)
            while not _all_done(tasks):
                await _wait(tasks, None)

    def _warn(self, text: str) -> None:
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        except RuntimeWarning as error:  # warnings are errors here: this one is told when all is closed
            self.errors.append(error)


def _all_done(tasks: Iterable[asyncio.Task[Any]]) -> bool:
    return all(task.done() for task in tasks)


async def _wait(tasks: Iterable[asyncio.Task[Any]], timeout_s: float | None) -> None:
    """`asyncio.wait`, of which a cancellation of the waiter is only an early end: the caller looks again."""
    pending = [task for task in tasks if not task.done()]
    if pending:
        try:
            await asyncio.wait(pending, timeout=timeout_s)
        except asyncio.CancelledError:
            pass  # whoever cancels a run wants it taken down, and that is what goes on here
