"""The feeds of sources that are made when the run starts: by a function, or by an async one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from overlapped._engine.callables import close_unstarted, is_awaitable
from overlapped._engine.pulled import Buffered, LoopFeed, TaskFeed, ThreadFeed
from overlapped.errors import UsageError
from overlapped.sources.any import ON_THE_LOOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.feed import Feed
    from overlapped._engine.scope import Scope


class MadeFeed(Buffered):
    """What is there only when the run has begun: once it is made, another feed may be the one to pull it."""

    _other: Feed | None = None

    def hand_over(self, other: Feed) -> None:
        """Let `other` pull it from now on."""
        self.ended_s = self.clock()
        self.is_listening = False  # that this one has finished is not the end
        self._other = other
        other.listen(self._heard)
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


class FunctionFeed(MadeFeed, ThreadFeed):
    """What a function makes: iterated in the thread that called it, or by a task if it is async."""

    def __init__(self, make: Callable[[], Any], name: str, scope: Scope) -> None:
        super().__init__(lambda: _checked(make(), name, is_awaited=True), name, scope)
        self.on_async = self._found_async
        self._found: object = None

    def _found_async(self, source: object) -> None:
        self._found = source
        if self._is_stopped:
            self._finish()
        else:
            self.hand_over(AsyncFeed(lambda: source, self.name, self._scope))

    def halt(self) -> None:
        """Halt both; a coroutine that nobody has begun is closed."""
        super().halt()
        close_unstarted(self._found)


class AsyncFeed(MadeFeed, TaskFeed):
    """What `make()` gives, awaited first if it can be: iterated by the task that called it, or in a thread if sync."""

    def __init__(self, make: Callable[[], Any], name: str, scope: Scope) -> None:
        async def started() -> Any:
            made = make()
            if inspect.isawaitable(made) and not hasattr(made, "__aiter__"):
                made = await made
            return _checked(made, name)

        super().__init__(started, name, scope)
        self.on_sync = self._found_sync

    def _found_sync(self, source: Any) -> None:
        if self.is_finished:
            return  # it was drained or halted, whatever the function made of that
        is_free = type(source) in ON_THE_LOOP
        self.hand_over(LoopFeed(source, self.name) if is_free else ThreadFeed(lambda: source, self.name, self._scope))


def _checked(made: Any, name: str, *, is_awaited: bool = False) -> Any:
    """What a source function made, if it can be iterated; or awaited, if somebody will do so."""
    if is_awaited and is_awaitable(made):
        return made
    if isinstance(made, (str, bytes)) or not (hasattr(made, "__iter__") or hasattr(made, "__aiter__")):
        close_unstarted(made)
        raise UsageError(f"flow({name}): {name}() must return an iterable, got {type(made).__name__}")
    return made
