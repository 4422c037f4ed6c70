"""Sessions, connections and the like: opened for a run, closed when it ends."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

from overlapped._engine.failure import as_value
from overlapped._engine.scope import running_task
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable


class Opened:
    """What one place has opened: closed from the last to the first, and an error of one keeps no other one open.

    Not an `ExitStack`: that one tells the last error only.

    Args:
        on_error: told of each exception that closing raised.
    """

    __slots__ = ("_closers", "_on_error")

    def __init__(self, on_error: Callable[[BaseException], object]) -> None:
        self._closers: list[tuple[str, Callable[[], Any]]] = []
        self._on_error = on_error

    def push(self, name: str, close: Callable[[], Any]) -> None:
        """`close()` of the resource of that name is called (and awaited, by `aclose`) at the end."""
        self._closers.append((name, close))

    def close(self, on_error: Callable[[BaseException], object] | None = None) -> None:
        """Close all of it; `on_error` is told instead, of errors that are to be expected."""
        while self._closers:
            name, close = self._closers.pop()
            try:
                close()
            except BaseException as error:  # noqa: BLE001 - a clean-up error is never lost
                (on_error or self._on_error)(_as_value(error, name))

    async def aclose(self) -> None:
        """Close all of it, also when cancelled meanwhile: then the cancellation goes on at the end."""
        task = running_task()
        cancelled: BaseException | None = None
        while self._closers:
            name, close = self._closers.pop()
            try:
                done = close()
                if inspect.isawaitable(done):
                    await done
            except BaseException as error:  # noqa: BLE001 - a clean-up error is never lost
                if _ends(task, error):
                    cancelled = error
                else:
                    self._on_error(_as_value(error, name))
        if cancelled is not None:
            raise cancelled


def _as_value(error: BaseException, name: str) -> BaseException:
    return as_value(error, name, kind="resource")


def _ends(task: Task[Any] | None, error: BaseException) -> bool:
    """True if no resource raised it: the task was cancelled, or its coroutine is closed, since its loop is gone."""
    if isinstance(error, GeneratorExit):
        return running_task() is not task
    return isinstance(error, CancelledError) and task is not None and task.cancelling() > 0


async def open_on_loop(factory: Callable[[], Any], name: str, opened: Opened) -> object:
    """Call `factory()` on the loop; what it gives is entered, and closed by `opened`.

    An awaitable is awaited. A context manager (async first) is entered and left; one that gives itself and has
    `close` or `aclose` is closed after that, since leaving a `sqlite3.Connection` does not close it. Anything else
    that a manager gives is its own to take back: a pool's connection, say.
    """
    task = running_task()
    try:
        made: Any = factory()
        awaited: Any = made
        if inspect.isawaitable(awaited) and not _has(made, "__aenter__"):
            made = await awaited
        value = made
        if _has(made, "__aenter__"):
            value = await made.__aenter__()
            if value is made:
                opened.push(name, _closing(made))
            opened.push(name, lambda: made.__aexit__(None, None, None))
        elif _has(made, "__enter__"):
            value = made.__enter__()
            if value is made:
                opened.push(name, _unless_closed(_closing(made)))
            opened.push(name, lambda: _leave(made))
        else:
            opened.push(name, _closing(made))
    except BaseException as error:
        if _ends(task, error) or (told := _as_value(error, name)) is error:
            raise
        raise told from error
    return value


def _has(made: object, name: str) -> bool:
    """True if its type has it, which is where the language looks: an instance may answer every name."""
    return hasattr(type(made), name)


def _method(value: Any, name: str) -> Any:
    """Its method of that name, or None; what answers every name (a proxy of a server) has those of its type only."""
    if not _has(value, name) and hasattr(value, "overlapped_no_such_name"):
        return None
    method = getattr(value, name, None)
    return method if callable(method) and not inspect.isclass(value) else None


def _closing(value: Any) -> Callable[[], Any]:
    """Closes it, if it can be closed; looked up at the end, since a property may need the loop."""

    def close() -> Any:
        method = _method(value, "aclose") or _method(value, "close")
        return None if method is None else method()

    return close


def _unless_closed(close: Callable[[], Any]) -> Callable[[], Any]:
    """`close` of what has been left before: a connection that `__exit__` closed refuses it (PEP 249; pg8000)."""

    def again() -> Any:
        try:
            return close()
        except Exception as error:
            if type(error).__name__ != "InterfaceError":
                raise
            return None

    return again


def _leave(made: Any) -> None:
    made.__exit__(None, None, None)  # what it gives is no awaitable, whatever it looks like


def open_blocking(factory: Callable[[], Any], name: str, opened: Opened) -> object:
    """As `open_on_loop`, in the thread that is to use it.

    Raises:
        UsageError: the factory gives something that belongs to a loop.
    """
    try:
        made = factory()
        if inspect.isawaitable(made) or (_has(made, "__aenter__") and not _has(made, "__enter__")):
            if inspect.iscoroutine(made):
                made.close()
            raise UsageError(
                f'using({name}, per="worker"): {name} is async, so a thread cannot open it; '
                f"give a blocking one, or make the stage's function async"
            )
        is_entered = _has(made, "__enter__")
        value = made.__enter__() if is_entered else made
    except BaseException as error:
        if (told := _as_value(error, name)) is error:
            raise
        raise told from error
    close = _method(made, "close") if value is made else None
    if close is not None:
        opened.push(name, _unless_closed(close) if is_entered else close)
    if is_entered:
        opened.push(name, lambda: _leave(made))
    return value
