"""READ SECOND: wires source -> stages -> sink for one run, and takes everything down again."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from overlapped._engine.callables import is_plain
from overlapped._engine.ending import Ending
from overlapped._engine.failure import Failure, add_note, as_value, short
from overlapped._engine.feed import SCAN_ROUNDS
from overlapped._engine.lineage import split
from overlapped._engine.loop import refuse_where_it_hangs
from overlapped._engine.resources import Opened, open_on_loop
from overlapped._engine.scope import GRACE_S, Scope
from overlapped._engine.watch import Watch
from overlapped._version import __version__
from overlapped.errors import TooManyFailures, UsageError
from overlapped.record import RunRecord
from overlapped.report.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.feed import Feed
    from overlapped._engine.lineage import Origin
    from overlapped.record import RunState

OnFailure = Literal["raise", "keep"]

PROGRESS_S: Final = 0.2
"""Between two calls of a `progress` function: 5 a second is as much as a person follows."""

DELIVERED_AT_ONCE: Final = 256
"""Results taken at once: bounds what is pulled where no stage with calls does; a hop to another thread
(about 50 us) costs each of them 0.2 us."""

MAX_NOTES: Final = 20
"""Further failures that are named on the exception that is raised; all are in its report."""


class Plan(Protocol):
    """What a run has to know of a flow."""

    @property
    def source_name(self) -> str:
        """What the items come from."""
        ...

    @property
    def factories(self) -> tuple[tuple[str, Callable[[], object]], ...]:
        """The resources, in the order in which they are opened."""
        ...

    @property
    def per_worker(self) -> frozenset[str]:
        """Those that every thread opens for itself."""
        ...

    def attach(self, scope: Scope) -> Feed:
        """The chain of feeds for one run."""
        ...


class RunOptions:
    """What the user asked of one run."""

    __slots__ = ("keep", "max_failures", "on_done", "progress")

    def __init__(
        self,
        on_failure: object = "raise",
        max_failures: object = None,
        progress: Callable[[RunRecord], object] | None = None,
        *,
        on_done: Callable[[Origin], None] | None = None,
    ) -> None:
        if on_failure not in ("raise", "keep"):
            raise UsageError(f'run(on_failure): on_failure must be "raise" or "keep", got {on_failure!r}')
        if max_failures is not None and (
            isinstance(max_failures, bool) or not isinstance(max_failures, int) or max_failures < 0
        ):
            raise UsageError(f"run(max_failures): max_failures must be an int >= 0, got {max_failures!r}")
        if progress is not None and not is_plain(progress):
            raise UsageError(f"run(progress): progress must be a plain function of a RunRecord, got {progress!r}")
        self.keep = on_failure == "keep" or max_failures is not None
        self.max_failures = max_failures
        self.progress = progress
        self.on_done = on_done


class Run(Scope):
    """One run of a flow on the running loop, from its first pull until nothing of it is left.

    A task of its own, the *warden*, opens the resources, starts the feeds, waits for the end and takes
    everything down; whoever consumes only takes what is ready, so cancelling a consumer loses nothing.
    """

    def __init__(self, flow: Plan, options: RunOptions) -> None:
        super().__init__(keep=options.keep, on_done=options.on_done)
        refuse_where_it_hangs(self.loop)
        self.options = options
        self.source_name = flow.source_name
        self.factories = dict(flow.factories)
        self.per_worker = frozenset(flow.per_worker)
        self.chain: Feed = flow.attach(self)
        self.chain.listen(self._heard)
        self.waiters: list[asyncio.Future[None]] = []
        self.listeners: list[Callable[[], None]] = []
        self.items = 0
        self.error: BaseException | None = None
        self.raised: Failure | None = None
        self.has_started = False  # the resources are open, so the source may be pulled
        self.is_over = False  # nothing more will be delivered
        self.is_drained = False
        self.is_cut_short = False
        self.final: RunRecord | None = None
        self.end: asyncio.Future[None] = self.loop.create_future()
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.started_at = time.time()
        self._usage = _usage()
        self.watch = Watch(self)
        self.ending = Ending(self.loop, self.cleanup_errors)
        self.consumer_s = 0.0
        self._handed_s = math.inf  # when the last results were taken, until more are asked for
        self.held: list[tuple[str, Opened]] = []  # the resources by their names, the last one opened last
        self._opening = ""  # what is being opened
        self.warden = asyncio.Task(self._live(), loop=self.loop, name="overlapped:warden", context=self.context.copy())

    # -- life --------------------------------------------------------------------------------------

    async def _live(self) -> None:
        opening = asyncio.Task(self._open(), loop=self.loop, name="overlapped:open")
        try:
            either: list[asyncio.Future[Any]] = [opening, self.end]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self.end.done():
                if (error := opening.result()) is not None:
                    raise error
                self.has_started = True
                self.watch.begin()
                self.chain.start()
                self._watch_progress()
                self._heard()
                await self.end
        except asyncio.CancelledError:
            self.abort(RuntimeError("the run was cancelled from outside: its loop is ending"))
        except BaseException as error:  # noqa: BLE001 - given to whoever consumes
            self.abort(error)
        finally:
            opening.cancel()
            await self._take_down(opening)

    async def _open(self) -> BaseException | None:
        """Open resources and the sink; whoever ends the run meanwhile cancels it.

        An error is returned: a task that raises KeyboardInterrupt would end its loop, not its run.
        """
        try:
            await self._open_all()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - raised by the warden
            return error
        return None

    async def _open_all(self) -> None:
        for name, factory in self.factories.items():
            is_on_loop = name not in self.per_worker or name in self.needed_on_loop
            is_elsewhere = name in self.needed_in_hosts and name not in self.needed_here
            if is_on_loop and not is_elsewhere and not self.chain.is_empty:
                opened = Opened(self.cleanup_errors.append)
                self.held.append((name, opened))
                self._opening = f"using({name})"
                self.resources[name] = await open_on_loop(factory, name, opened)
        self._opening = "stages and sink"
        for open_ in self.openers if self.chain.is_empty else [*self.starters, *self.openers]:
            await open_()

    async def _take_down(self, opening: asyncio.Task[BaseException | None]) -> None:
        """Cancel what runs, close what is open, and wait for all of it, however often we are cancelled."""
        self.closing = True
        self.is_over = True
        try:
            await self.ending.outlast(
                [opening], f"the opening of {self._opening} ignores its cancellation; waiting for it"
            )
            self.chain.halt()
            self.forget_timers()
            await self.ending.cancel(self.tasks)
            await self.ending.finish(*self.closers)
            while self.held:
                name, opened = self.held.pop()
                late = f"the closing of using({name}) has not ended within {GRACE_S:g} s; waiting for it"
                await self.ending.finish(opened.aclose, late=late)
            await self.ending.cancel(self.tasks)
            self.forget_timers()
        except BaseException as error:  # noqa: BLE001 - the consumer waits for the end, and is told there
            self.cleanup_errors.append(error)
        finally:
            self.final = self.record()
            if self.options.progress is not None:
                self._progress()
            if not self.finished.done():
                self.finished.set_result(None)
            self._heard()

    def stop(self) -> None:
        """Ask the warden to take everything down."""
        if not self.end.done():
            self.is_cut_short = not self.is_over
            self.end.set_result(None)

    def abort(self, error: BaseException) -> None:
        """End the run at once with `error`."""
        if self.error is None and not self.closing:
            self.error = error
        elif error is not self.error and not isinstance(error, asyncio.CancelledError):
            self.cleanup_errors.append(error)
        self.is_over = True
        self.stop()
        self._heard()

    def drain(self) -> None:
        """Pull nothing new, finish and deliver what has been pulled, then end normally."""
        self.is_drained = True
        self.chain.drain()

    @property
    def is_ending(self) -> bool:
        """True if somebody cancelled the warden: `asyncio.run` does so to every task at its end."""
        return self.warden.cancelling() > 0

    # -- delivery ------------------------------------------------------------------------------------

    def _heard(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()
        for listener in self.listeners:
            listener()

    async def wait(self) -> None:
        """Wait until `take` may give something or the run is over."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.waiters.append(waiter)
        await waiter

    def take(self) -> list[object]:
        """Results that are ready; failures among them are raised (kept) by what this run does with failures."""
        if self._handed_s != math.inf:
            self.consumer_s += self.clock() - self._handed_s
            self._handed_s = math.inf
        for _ in range(SCAN_ROUNDS):
            if self.is_over or not self.has_started:
                return []
            try:
                chunk = self.context.run(self.chain.take, DELIVERED_AT_ONCE)
            except BaseException as error:  # noqa: BLE001 - a stage's own; it must end the run, not only this call
                self.abort(error)
                return []
            if not chunk:
                self.is_over = self.chain.ended
                return []
            marks = self.chain.marks
            if not self.chain.is_clean() and Failure in map(type, chunk):
                chunk, count = self._sift(chunk)
                marks = None if marks is None else marks[:count]
            for mark in marks or ():
                split(mark, into=0)
            if chunk:
                self.items += len(chunk)
                self._handed_s = self.clock()
                return chunk
        self.loop.call_soon(self._heard)  # nothing but failures, and there are more: let the loop turn first
        return []

    def _sift(self, chunk: list[object]) -> tuple[list[object], int]:
        """The results of a chunk, and how many of its items are dealt with: a failure may end the run."""
        values: list[object] = []
        for count, item in enumerate(chunk):
            if not isinstance(item, Failure):
                values.append(item)
                continue
            self.failed_for_good(item)
            if item.dead or not self.keep:
                self.raised = item
                self.error = item.error
            elif self.options.max_failures is not None and self.failed > self.options.max_failures:
                self.error = TooManyFailures(
                    f"{self.failed} items failed, max_failures is {self.options.max_failures}; the first: "
                    f"{short(self.failures[0].error)}",
                    [failure.error for failure in self.failures],
                )
            else:
                continue
            self.is_over = True
            return values, count
        return values, len(chunk)

    def outcome(self) -> BaseException | None:
        """What the run ends with, once it is finished: the user's own exception with notes, or None."""
        error = self.error
        if error is None:
            errors = [as_value(raised, self.source_name, kind="closing a run of") for raised in self.cleanup_errors]
            if not errors:
                return None
            error = errors[0] if len(errors) == 1 else _group("errors while a run was closed", errors)
        else:
            self._annotate(error)
        try:
            error.report = self.report  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # see errors.py
        except Exception:  # noqa: BLE001 - frozen or hostile exception classes; the error itself is what counts
            return error
        return error

    def _annotate(self, error: BaseException) -> None:
        notes = [] if self.raised is None else [self.raised.note()]
        others = [f for f in self.failures if f is not self.raised and f.error is not error]
        if not isinstance(error, TooManyFailures):
            notes += [f"{f.note()} also failed: {short(f.error)}" for f in others[:MAX_NOTES]]
            if len(others) > MAX_NOTES:
                notes.append(f"overlapped: {len(others) - MAX_NOTES} more failures are in error.report")
        notes += [f"overlapped: while the run was closed: {short(e)}" for e in self.cleanup_errors]
        add_note(error, *notes)

    # -- account -------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """In one word."""
        if not self.finished.done() and not self.closing:
            return "running"
        if self.error is not None:
            return "failed"
        if self.is_drained:
            return "stopped"
        return "cancelled" if self.is_cut_short else "done"

    def record(self, *, whole: bool = True) -> RunRecord:
        """The account so far; the final one once the run is finished.

        Not `whole`: without the single calls, which take milliseconds to sort; for those who look five times a second.
        """
        if self.final is not None:
            return self.final
        loop_cpu_s = self.watch.loop_cpu_s()  # before that of the process, which holds it
        cpu, voluntary, involuntary, peak = _usage()
        failures = (
            self.failures if self.raised is None else [self.raised, *(f for f in self.failures if f is not self.raised)]
        )
        # The time is looked at last: whoever asks from another thread may have to wait between two stages.
        stages = tuple(account(whole) for account in (*(crew.record for crew in self.crews), *self.accounts))
        return RunRecord(
            source=self.source_name,
            state=self.state,
            started_at=self.started_at,
            elapsed_s=self.clock() - self.started_s,
            items=self.items,
            failed=self.failed,
            failures=tuple(failure.record() for failure in failures),
            cleanup_errors=tuple(self.cleanup_errors),
            stages=stages,
            cpu_s=cpu - self._usage[0],
            voluntary_switches=voluntary - self._usage[1],
            involuntary_switches=involuntary - self._usage[2],
            peak_rss_bytes=peak,
            loop_cpu_s=loop_cpu_s,
            loop_wait_s=self.watch.loop_wait_s(),
            source_items=self.source_items,
            source_s=max((feed.busy_s() for feed in self.pulled if feed.is_source), default=0.0),
            consumer_s=self.consumer_s,
            cpus=_cpus(),
            stalls=self.watch.stalls(),
            loop_lines=self.watch.lines(),
            made_by=f"overlapped {__version__}, Python {sys.version.split()[0]}, {sys.platform}",
            error=self.error,
        )

    @property
    def report(self) -> Report:
        """The account for people."""
        return Report(self.record())

    def _watch_progress(self) -> None:
        if self.options.progress is not None:
            self._progress()
            if not self.closing:
                self.later(PROGRESS_S, self._watch_progress)

    def _progress(self) -> None:
        assert self.options.progress is not None
        try:
            self.options.progress(self.record(whole=False))
        except Exception as error:  # noqa: BLE001 - a broken display must not lose items; the run still tells
            self.options.progress = None
            self.cleanup_errors.append(error)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C and its like end the run, also while it is closed
            self.options.progress = None
            self.abort(error)


def _group(text: str, errors: list[BaseException]) -> BaseException:
    return BaseExceptionGroup(text, errors)


def _cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _usage() -> tuple[float, int, int, int]:
    try:
        import resource
    except ImportError:  # Windows
        return time.process_time(), 0, 0, 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, used.ru_nvcsw, used.ru_nivcsw, used.ru_maxrss * scale
