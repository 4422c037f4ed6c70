"""Sessions, connections and the like: opened for a run, closed when it ends."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


class Opened:
    """What one place has opened: closed from the last to the first, and an error of one keeps no other one open.

    Not an `ExitStack`: that one tells the last error only.

    Args:
        on_error: told of each exception that closing raised.
    """

    __slots__ = ("_closers", "_on_error")

    def __init__(self, on_error: Callable[[BaseException], object]) -> None:
        self._closers: list[Callable[[], Any]] = []
        self._on_error = on_error

    def push(self, close: Callable[[], Any]) -> None:
        """`close()` is called (and awaited, by `aclose`) at the end."""
        self._closers.append(close)

    def close(self, on_error: Callable[[BaseException], object] | None = None) -> None:
        """Close all of it; `on_error` is told instead, of errors that are to be expected."""
        while self._closers:
            try:
                self._closers.pop()()
            except BaseException as error:  # noqa: BLE001 - a clean-up error is never lost
                (on_error or self._on_error)(error)

    async def aclose(self) -> None:
        """Close all of it, also when cancelled meanwhile: then the cancellation goes on at the end."""
        cancelled: BaseException | None = None
        while self._closers:
            try:
                done = self._closers.pop()()
                if inspect.isawaitable(done):
                    await done
            except CancelledError as error:
                cancelled = error
            except BaseException as error:  # noqa: BLE001 - a clean-up error is never lost
                self._on_error(error)
        if cancelled is not None:
            raise cancelled


async def open_on_loop(factory: Callable[[], Any], opened: Opened) -> object:
    """Call `factory()` on the loop; what it gives is entered, and closed by `opened`.

    An awaitable is awaited. A context manager (async first) is entered and left; one that gives itself and has
    `close` or `aclose` is closed after that, since leaving a `sqlite3.Connection` does not close it. Anything else
    that a manager gives is its own to take back: a pool's connection, say.
    """
    made: Any = factory()
    awaited: Any = made
    if inspect.isawaitable(awaited) and not _has(made, "__aenter__"):
        made = await awaited
    value = made
    if _has(made, "__aenter__"):
        value = await made.__aenter__()
        if value is made:
            opened.push(_closing(made))
        opened.push(lambda: made.__aexit__(None, None, None))
    elif _has(made, "__enter__"):
        value = made.__enter__()
        if value is made:
            opened.push(_unless_closed(_closing(made)))
        opened.push(lambda: _leave(made))
    else:
        opened.push(_closing(made))
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
    close = _method(made, "close") if value is made else None
    if close is not None:
        opened.push(_unless_closed(close) if is_entered else close)
    if is_entered:
        opened.push(lambda: _leave(made))
    return value
