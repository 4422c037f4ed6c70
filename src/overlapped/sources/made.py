"""The feeds of sources that are made when the run starts: by a function, or by an async one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from overlapped._engine.pulled import TaskFeed, ThreadFeed
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from overlapped._engine.feed import Feed
    from overlapped._engine.scope import Scope


class FunctionFeed(ThreadFeed):
    """What a function makes: iterated in the thread that called it, or by a task if it is async."""

    def __init__(self, make: Callable[[], Any], name: str, scope: Scope) -> None:
        super().__init__(lambda: _checked(make(), name), name, scope)
        self._other: Feed | None = None
        self.on_async = self._hand_over

    def _hand_over(self, source: object) -> None:
        self._other = task_feed(lambda: source, self.name, self._scope)
        self._other.listen(self._heard)
        self.notify()

    def _heard(self) -> None:
        self.notify()

    def take(self, want: int) -> list[object]:
        """From whichever iterates it."""
        if self._other is None:
            return super().take(want)
        chunk = self._other.take(want)
        self.ended = self._other.ended
        return chunk

    def halt(self) -> None:
        """Halt both."""
        super().halt()
        if self._other is not None:
            self._other.halt()

    def drain(self) -> None:
        """Drain whichever iterates it."""
        if self._other is None:
            super().drain()
        else:
            self._other.drain()


def task_feed(make: Callable[[], Any], name: str, scope: Scope) -> TaskFeed:
    """What `make()` gives, awaited first if it can be, iterated by a task."""

    async def started() -> AsyncIterator[object]:
        made = make()
        if inspect.isawaitable(made) and not hasattr(made, "__aiter__"):
            made = await made
        made = _checked(made, name)
        return made if hasattr(made, "__aiter__") else _as_async(made)

    return TaskFeed(started, name, scope)


async def _as_async(items: Any) -> AsyncIterator[object]:
    for item in items:
        yield item


def _checked(made: Any, name: str) -> Any:
    """What a source function made, if it can be iterated."""
    if isinstance(made, (str, bytes)) or not (hasattr(made, "__iter__") or hasattr(made, "__aiter__")):
        if inspect.iscoroutine(made):
            made.close()
        raise UsageError(f"flow({name}): {name}() must return an iterable, got {type(made).__name__}")
    return made
