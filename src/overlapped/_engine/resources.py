"""Sessions, connections and the like: opened for a run, closed when it ends."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack, ExitStack


async def open_on_loop(factory: Callable[[], Any], stack: AsyncExitStack) -> object:
    """Call `factory()` on the loop; what it gives is entered, and closed by `stack`.

    An awaitable is awaited. A context manager (async first) is entered; whatever has `close` or `aclose`
    is closed after that, since leaving a `sqlite3.Connection` does not close it.
    """
    made: Any = factory()
    awaited: Any = made
    if inspect.isawaitable(awaited) and not hasattr(made, "__aenter__"):
        made = await awaited
    value = made
    if hasattr(made, "__aenter__"):
        value = await made.__aenter__()
        stack.push_async_callback(_close_async, value)
        stack.push_async_exit(made)
    elif hasattr(made, "__enter__"):
        value = made.__enter__()
        stack.push_async_callback(_close_async, value)
        stack.push(made)
    else:
        stack.push_async_callback(_close_async, made)
    return value


async def _close_async(value: Any) -> None:
    close = getattr(value, "aclose", None) or getattr(value, "close", None)
    if callable(close) and not inspect.isclass(value):
        done = close()
        if inspect.isawaitable(done):
            await done


def open_blocking(factory: Callable[[], Any], name: str, stack: ExitStack) -> object:
    """As `open_on_loop`, in the thread that is to use it.

    Raises:
        UsageError: the factory gives something that belongs to a loop.
    """
    made = factory()
    if inspect.isawaitable(made) or (hasattr(made, "__aenter__") and not hasattr(made, "__enter__")):
        if inspect.iscoroutine(made):
            made.close()
        raise UsageError(
            f'using({name}, per="worker"): {name} is async, so a thread cannot open it; '
            f"give a blocking one, or make the stage's function async"
        )
    value = made.__enter__() if hasattr(made, "__enter__") else made
    close = getattr(value, "close", None)
    if callable(close) and not inspect.isclass(value):
        stack.callback(close)
    if hasattr(made, "__exit__"):
        stack.push(made)
    return value
