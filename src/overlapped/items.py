"""What comes out of a run: the iterators that a user holds, async and sync."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from overlapped._engine.failure import add_note
from overlapped._engine.loop import is_ours, running_loop
from overlapped._engine.scope import GRACE_S, SLICE_S, WITHIN
from overlapped.bridge import Bridge
from overlapped.errors import UsageError
from overlapped.record import RunRecord
from overlapped.report.report import Report
from overlapped.running import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from overlapped.record import RunState
    from overlapped.running import Plan, RunOptions

T = TypeVar("T")

_LIVE: weakref.WeakSet[Any] = weakref.WeakSet()
"""Iterators whose run may be going on: for the hooks at exit and after fork."""


def _refuse_own(run: Run | None) -> None:
    """Whoever waits for the run inside of which it runs would wait for itself."""
    if run is not None and run.token in WITHIN.get():
        raise UsageError(
            "a call, or a generator, cannot wait for results or the end of its own run: they wait for it; "
            "write items.drain() to end the run, or use another flow"
        )


class AsyncItems(Generic[T]):
    """The results of one run, for `async for`; the run begins with the first `anext`.

    Cancelling an `anext` loses nothing: the next one gives what it would have given.
    """

    def __init__(self, flow: Plan, options: RunOptions) -> None:
        self._flow = flow
        self._options = options
        self._run: Run | None = None
        self._state: RunState = "running"  # of a run that has not begun
        self._chunk: Iterator[T] = iter(())
        self._turned_s = 0.0  # the loop turned then, as far as it is known here
        self._is_closed = False
        self._pid = os.getpid()
        _LIVE.add(self)

    def __aiter__(self) -> AsyncItems[T]:
        """Itself."""
        return self

    async def __anext__(self) -> T:
        """The next result; an item's failure is raised here, in its place."""
        for item in self._chunk:
            return item
        return await self._next()

    async def _next(self) -> T:
        while not self._is_closed:
            if await self._fetch():
                for item in self._chunk:
                    return item
            else:
                await self._close()
        raise StopAsyncIteration

    async def exhaust(self) -> None:
        """Pull everything and throw it away, chunk by chunk."""
        while await self._fetch():
            self._chunk = iter(())

    async def rest(self) -> list[T]:
        """All results that are left, chunk by chunk: 0.1 us an item less than one by one."""
        results: list[T] = []
        while await self._fetch():
            results.extend(self._chunk)
        return results

    async def _fetch(self) -> bool:
        """Wait for a chunk; False at the end."""
        _refuse_own(self._run)
        run = self._start()
        while not length_hint(self._chunk):  # another task may have fetched meanwhile
            if chunk := run.take():
                self._chunk = iter(cast("list[T]", chunk))  # the stages made them so
                if run.clock() - self._turned_s > SLICE_S:  # where no stage makes calls, nobody lets the loop turn
                    self._turned_s = run.clock()
                    await asyncio.sleep(0)
            elif run.is_over:
                return False
            else:
                await run.wait()
                self._turned_s = run.clock()
        return True

    def _start(self) -> Run:
        if self._pid != os.getpid():
            raise UsageError("this iterator was made before fork(); make a new one in the child: write iter(flow)")
        if self._run is None:
            self._state = "failed"  # unless it can be built
            self._run = run = Run(self._flow, self._options)
            self._turned_s = run.clock()
            self._finalizer = _finalizer(self, run)
        elif self._run.loop is not running_loop():
            raise UsageError("this iterator belongs to another event loop; make a new one: write aiter(flow)")
        return self._run

    async def _close(self) -> None:
        """Take the run down and raise what it ends with, once; to a caller that is cancelled, the next time."""
        run = self._run
        if run is None or self._is_closed:
            if not self._is_closed and self._state == "running":
                self._state = "cancelled"
            self._is_closed = True
            return
        _refuse_own(run)
        self._chunk = iter(())
        run.stop()
        was_cancelled = False
        while not run.finished.done():
            try:
                await asyncio.wait([run.finished])
            except asyncio.CancelledError:
                was_cancelled = True
                run.ending.hurry()
        if was_cancelled:
            raise asyncio.CancelledError
        if self._is_closed:  # another task has been told meanwhile
            return
        self._is_closed = True
        self._finalizer.detach()
        error = run.outcome()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame

    async def aclose(self) -> None:
        """Cancel what runs, wait until nothing of it is left, then raise what went wrong, if anything.

        May be called again, and is safe against being cancelled meanwhile.
        """
        await self._close()

    async def __aenter__(self) -> AsyncItems[T]:
        """Start the run, unless it has been closed already."""
        if not self._is_closed:
            self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an exception that is under way is not hidden by one of closing."""
        try:
            await self.aclose()
        except BaseException as closing:
            if error is None or closing is error:
                raise
            add_note(error, f"overlapped: while the run was closed: {closing!r}")

    def drain(self) -> None:
        """Stop pulling from the source, finish what has been pulled, end normally. From any thread."""
        run = self._run
        if run is not None:
            run.loop.call_soon_threadsafe(run.drain)

    def stats(self) -> RunRecord:
        """A snapshot of the run, now."""
        return self._unbegun() if self._run is None else self._run.record(whole=False)

    @property
    def report(self) -> Report:
        """The account so far; the final one when the run has ended."""
        return Report(self._unbegun()) if self._run is None else self._run.report

    def _unbegun(self) -> RunRecord:
        """The account of nothing: whoever looks at a run does not begin it."""
        return RunRecord(
            source=self._flow.source_name,
            state=self._state,
            started_at=time.time(),
            elapsed_s=0.0,
            items=0,
            failed=0,
            failures=(),
            cleanup_errors=(),
            stages=(),
            cpu_s=0.0,
            voluntary_switches=0,
            involuntary_switches=0,
            peak_rss_bytes=0,
        )

    def _forked(self) -> None:
        self._chunk = iter(())


class Items(Generic[T]):
    """The results of one run, for `for`; the run has a loop in a daemon thread of its own.

    One iterator may be shared by several threads: each item goes to one of them.
    """

    def __init__(self, flow: Plan, options: RunOptions) -> None:
        loop = running_loop()
        if loop is not None and is_ours(loop):
            raise UsageError(
                "a blocking call on the loop of a run would stop that run; "
                "write async for x in flow, or await flow.acollect()"
            )
        self._chunk: Iterator[T] = iter(())
        self._lock = threading.Lock()
        self._is_closed = False
        self._pid = os.getpid()
        self._bridge = Bridge(flow, options)
        self._finalizer = _finalizer(self, self._bridge)
        _LIVE.add(self)
        if self._bridge.run is None:  # it could not even be built: an iterator that was used up, say
            self._finish()

    def __iter__(self) -> Items[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next result; an item's failure is raised here, in its place."""
        for item in self._chunk:
            return item
        return self._next()

    def _next(self) -> T:
        if self._pid != os.getpid():
            raise UsageError("this iterator was made before fork(); make a new one in the child: write iter(flow)")
        _refuse_own(self._bridge.run)
        while not self._is_closed:
            with self._lock:
                for item in self._chunk:  # another thread has fetched meanwhile
                    return item
                if self._is_closed:
                    break
                try:
                    chunk = self._bridge.fetch()
                except BaseException:  # Ctrl-C: in a library it cancels
                    self._bridge.stop()
                    raise
                if chunk is None:
                    self._finish()
                else:
                    self._chunk = iter(cast("list[T]", chunk))  # the stages made them so
        raise StopIteration

    def _finish(self) -> None:
        self._is_closed = True
        self._finalizer.detach()
        self._chunk = iter(())
        self._bridge.thread.join()
        error, self._bridge.outcome = self._bridge.outcome, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame

    def close(self) -> None:
        """Cancel what runs, wait until nothing of it is left, then raise what went wrong, if anything."""
        if self._pid != os.getpid():
            return
        _refuse_own(self._bridge.run)
        self._bridge.stop()
        with self._lock:
            if not self._is_closed:
                self._finish()

    def __enter__(self) -> Items[T]:
        """Itself: the run has begun."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an exception that is under way is not hidden by one of closing."""
        try:
            self.close()
        except BaseException as closing:
            if error is None or closing is error:
                raise
            add_note(error, f"overlapped: while the run was closed: {closing!r}")

    def drain(self) -> None:
        """Stop pulling from the source, finish what has been pulled, end normally.

        Safe from any thread and from a signal handler.
        """
        if self._bridge.run is not None:
            self._bridge.tell(self._bridge.run.drain)

    def stats(self) -> RunRecord:
        """A snapshot of the run, now."""
        return self.report.record

    @property
    def report(self) -> Report:
        """The account so far; the final one when the run has ended."""
        assert self._bridge.run is not None
        return self._bridge.run.report

    def _forked(self) -> None:
        self._chunk = iter(())


class Scoped(Generic[T]):
    """`with flow.open() as items` or `async with flow.open() as items`: a run that is surely closed."""

    def __init__(self, flow: Plan, options: RunOptions) -> None:
        self._flow = flow
        self._options = options
        self._items: Any = None

    def __enter__(self) -> Items[T]:
        """Start the run on a loop in a thread."""
        self._items = Items(self._flow, self._options)
        return self._items  # type: ignore[no-any-return]  # made in the line above

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run."""
        self._items.__exit__(kind, error, trace)

    async def __aenter__(self) -> AsyncItems[T]:
        """Start the run on this loop."""
        self._items = AsyncItems(self._flow, self._options)
        return await self._items.__aenter__()  # type: ignore[no-any-return]  # made in the line above

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run."""
        await self._items.__aexit__(kind, error, trace)


def _finalizer(items: object, life: Run | Bridge) -> weakref.finalize[Any, Any]:
    """What ends the run if `items` is dropped.

    It holds the run, whose error may hold `items` by its traceback: so it must be detached once the run has ended.
    """
    finalizer = weakref.finalize(items, _let_go, life, os.getpid())
    finalizer.atexit = False
    return finalizer


def _let_go(life: Run | Bridge, pid: int) -> None:
    """The user's iterator is gone without having been closed: end its run, from whatever thread this is."""
    if pid != os.getpid():
        return
    if isinstance(life, Bridge):
        life.stop()
    else:
        try:
            life.loop.call_soon_threadsafe(life.stop)
        except RuntimeError:  # the loop is closed: nothing can be running
            pass


def _end_live_runs() -> None:
    """At interpreter exit: end what still runs, within a grace."""
    bridges = [live._bridge for live in list(_LIVE) if isinstance(live, Items) and live._pid == os.getpid()]  # noqa: SLF001
    for bridge in bridges:
        bridge.stop()
    for bridge in bridges:
        bridge.thread.join(GRACE_S)


def _after_fork() -> None:
    for live in list(_LIVE):
        live._forked()  # noqa: SLF001 - a hook of this module's own classes


atexit.register(_end_live_runs)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
