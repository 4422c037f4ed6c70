"""The live page of a run: its server has a thread and a loop of its own, begins with the run and ends with it."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import socket
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Final, Self

from overlapped._engine.loop import new_loop
from overlapped.errors import UsageError
from overlapped.report import files, live_server
from overlapped.report.live import Live

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped.record import RunRecord

ADDRESS: Final = "127.0.0.1"
BACKLOG: Final = 64
LEAVE_S: Final = 10.0
"""How long the end of a run waits for the page's thread: seconds on a busy machine, and an item's `repr` may hang."""


class Dashboard:
    """A live page: a scope that holds its port from the start, and leaves nothing behind.

    Args:
        port: where; None for any that is free.
        name: what the user wrote, for messages: `run(dashboard)` or `--dashboard`.
        instead: what to write for a free port.
        report: the file that the report goes to, if any: its name is the one under which a browser saves it.

    Raises:
        UsageError: the port is taken, or a package is missing.
    """

    def __init__(
        self, port: int | None, *, name: str, instead: str, report: str | os.PathLike[str] | None = None
    ) -> None:
        files.need_jinja(name)
        live_server.need_aiohttp(name)
        self._report = os.path.basename(os.fspath(report)) if report is not None else "run.html"
        self._socket = _bound(port, name, instead)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="overlapped:dashboard", daemon=True)
        self._is_ready = threading.Event()  # the thread has what it needs, or has failed
        self._snapshot: Callable[[], RunRecord] | None = None
        self._left: Callable[[], None] | None = None  # told when the thread's loop has ended
        self._is_left = self._is_closed = False
        self._lock = threading.Lock()  # of these two
        self._error: BaseException | None = None
        # of the thread's loop:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin: asyncio.Event | None = None
        self._end: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{ADDRESS}:{self.port}/"

    def __enter__(self) -> Self:
        """Start the thread: what it has to load must not hold up a run that has begun."""
        try:
            self._thread.start()
            self._is_ready.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """End it at once."""
        self.close()

    def show(self, snapshot: Callable[[], RunRecord]) -> None:
        """Serve the page from now on, and say on stderr where.

        Args:
            snapshot: the run's account so far; called in the page's thread, only while a browser looks.
        """
        self._snapshot = snapshot
        if self._begin is not None:
            self._call(self._begin.set)
        try:
            sys.stderr.write(f"overlapped: live page at {self.address} while the run lasts\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or None: nobody to tell, and nothing to fail for

    async def finish(self) -> None:
        """The run has ended: give the last frame to browsers that look, for a second at most, and end."""
        if self._snapshot is not None and self._end is not None:
            loop = asyncio.get_running_loop()
            left = asyncio.Event()
            with self._lock:
                if not self._is_left:
                    self._left = lambda: _call(loop, left.set)
            if self._left is not None:
                self._call(self._end.set)
                try:
                    async with asyncio.timeout(LEAVE_S):
                        await left.wait()
                except TimeoutError:
                    pass  # `close` tells
        self.close()

    def close(self) -> None:
        """End at once, whoever looks."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._thread.ident is not None:
            if self._task is not None:
                self._call(self._task.cancel)
            self._thread.join(LEAVE_S)
        self._socket.close()
        if self._thread.is_alive():
            warnings.warn(
                "the live page hangs, maybe in the repr of an item; its thread is left alone",
                ResourceWarning,
                stacklevel=2,
            )
        elif self._error is not None:
            warnings.warn(f"the live page ended before its run: {self._error!r}", RuntimeWarning, stacklevel=2)

    def _call(self, call: Callable[[], object]) -> None:
        """Have it called in the thread."""
        if self._loop is not None:
            _call(self._loop, call)

    # -- in the thread -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._live())
        except asyncio.CancelledError:
            pass  # ended at once
        except BaseException as error:  # noqa: BLE001 - told when the run ends: the page is no reason to end it
            self._error = error
        self._is_ready.set()
        with self._lock:
            self._is_left = True
        if self._left is not None:
            self._left()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.slow_callback_duration = math.inf  # a frame may take a while: nobody waits for it
        self._begin, self._end = asyncio.Event(), asyncio.Event()
        self._task = asyncio.current_task()
        self._is_ready.set()
        await self._begin.wait()
        assert self._snapshot is not None
        server = live_server.LiveServer(Live(self._report), self._snapshot, self.port)
        await server.serve(self._socket, self._end)


def _call(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Have it called on a loop of another thread, if there is one still."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: whoever is called has gone


def _bound(port: int | None, name: str, instead: str) -> socket.socket:
    """A socket on the port, found out before anything runs.

    Raises:
        UsageError: it cannot be had.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ADDRESS, port or 0))
        sock.listen(BACKLOG)  # at once: a port that is only bound can be bound again
    except OSError as error:
        sock.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise UsageError(f"{name}: port {port} {why}; write {instead} for one that is free") from error
    return sock
