"""The event loop of runs that bring their own: uvloop where it is installed, asyncio's otherwise.

A process that gevent has patched gets asyncio's: uvloop waits in C, where no greenlet has its turn, and hangs.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import weakref
from typing import TYPE_CHECKING, Any, Final

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_OURS: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
# Which loops are ours, so that a blocking call on one of them can be told from one in a notebook's loop.

_READS_SIGNALS: Final = "Loop._read_from_self"
"""The callback in which uvloop calls Python's signal handlers; its name stands in the message of a failed one."""


def new_loop() -> asyncio.AbstractEventLoop:
    """A new loop for one run."""
    loop = _new_uvloop() or asyncio.new_event_loop()
    _OURS.add(loop)
    return loop


def _new_uvloop() -> asyncio.AbstractEventLoop | None:
    if sys.platform == "win32" or is_patched():
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop()


def is_patched() -> bool:
    """True if gevent has replaced this process's sockets and threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading") or monkey.is_module_patched("select"))


def refuse_where_it_hangs(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse a loop on which a run in this process would wait for ever.

    Raises:
        UsageError: it is uvloop's, and gevent has patched this process.
    """
    if type(loop).__module__.partition(".")[0] == "uvloop" and is_patched():
        raise UsageError(
            "gevent has patched this process, and uvloop waits where gevent cannot see it, so threads and greenlets "
            'would stand still for ever; leave out monkey.patch_all() here and write on="greenlet", which patches '
            "processes of its own, or use asyncio's own loop: asyncio.run(main())"
        )


class _Signalled:
    """What a signal handler of the user has raised: it ends the loop, as it ends any blocking call.

    asyncio's loop lets it through; uvloop calls handlers from a callback of its own, or the interpreter does in the
    first lines of any other one, and of their errors only the loop's exception handler is told.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.error: BaseException | None = None
        loop.set_exception_handler(self._told)

    def _told(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        reads = _READS_SIGNALS in context.get("message", "")
        if isinstance(error, BaseException) and (reads or _is_of_handler(error)):
            self.error = error
            loop.set_exception_handler(None)  # what comes later is only printed
            loop.stop()
        else:
            loop.default_exception_handler(context)

    def tell(self) -> None:
        """Raise it, if there is something."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame


def _is_of_handler(error: BaseException) -> bool:
    """True if it was raised in a function that handles a signal."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers} - {None}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in codes:
        trace = trace.tb_next
    return trace is not None


def run_to_end(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run `work()` on a new loop in this thread, to its end even if somebody stops that loop.

    Tornado's `run_sync` does so when it is called inside of it: it is refused, but what it had scheduled runs, and
    stops the loop. The run must live to tell that.
    """
    task: asyncio.Task[Any] | None = None

    async def begin() -> Any:
        nonlocal task
        task = asyncio.current_task()
        return await work()

    async def go_on(begun: asyncio.Task[Any]) -> Any:
        return await begun

    with asyncio.Runner(loop_factory=new_loop) as runner:
        signalled = _Signalled(runner.get_loop())
        step = begin()
        while True:
            try:
                value = runner.run(step)
            except RuntimeError:
                if signalled.error is None and (task is None or task.done()):
                    raise
            else:
                if signalled.error is None:
                    return value
            signalled.tell()
            assert task is not None
            step = go_on(task)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def is_ours(loop: asyncio.AbstractEventLoop) -> bool:
    """True if `new_loop` made it."""
    return loop in _OURS
