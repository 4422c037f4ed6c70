"""A run on a loop in a thread of its own, and the way across for results and for blocking calls."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.loop import is_ours, run_to_end, running_loop
from overlapped.errors import UsageError
from overlapped.running import Run

if TYPE_CHECKING:
    from overlapped.running import Plan, RunOptions


LOOK_S: Final = 0.5
"""A signal that comes in the last moment before a thread waits does not wake it: it looks so often by itself."""


class Bridge:
    """A run on a loop in a daemon thread of its own; chunks cross over when they are asked for."""

    def __init__(self, flow: Plan, options: RunOptions) -> None:
        self._flow = flow
        self._options = options
        self._answers: queue.SimpleQueue[list[object] | None] = queue.SimpleQueue()
        self._is_asked = self._is_told = self._is_answering = False
        self.run: Run | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.outcome: BaseException | None = None
        self._has_started = threading.Event()
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._serve,), name="overlapped:loop", daemon=True)
        self.is_unwanted = False
        try:
            self.thread.start()
            self._has_started.wait()
        except BaseException:  # Ctrl-C just now: nobody will ever hold this run
            self.is_unwanted = True
            self.stop()
            raise

    # -- in the loop's thread ------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            run_to_end(self._live)
        except BaseException as error:  # noqa: BLE001 - given to whoever consumes
            self.outcome = error
        self._has_started.set()
        self._answers.put(None)

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.run = run = Run(self._flow, self._options)
        run.listeners.append(self._answer)
        self._has_started.set()
        if self.is_unwanted:
            run.stop()
        await asyncio.wait([run.finished])
        self.outcome = run.outcome()

    def _ask(self) -> None:
        self._is_asked = True
        self._answer()

    def _answer(self) -> None:
        run = self.run
        self._is_told = True
        if run is None or self._is_answering:  # from inside: what it takes from has just told it something
            return
        self._is_answering = True
        try:
            while self._is_asked and self._is_told:
                self._is_told = False
                if chunk := run.take():
                    self._is_asked = False
                    self._answers.put(chunk)
                elif run.is_over:
                    run.stop()
        except BaseException as error:  # noqa: BLE001 - nobody above this callback would hear of it
            run.abort(error)
        finally:
            self._is_answering = False

    # -- in any other thread ---------------------------------------------------------------------------

    def fetch(self) -> list[object] | None:
        """Wait for the next chunk; None at the end."""
        self.tell(self._ask)
        while True:
            try:
                return self._answers.get(timeout=LOOK_S)
            except queue.Empty:
                continue

    def tell(self, call: Any) -> None:
        """Have `call()` called on the loop, if it still runs."""
        try:
            if self.loop is not None:
                self.loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: the run has ended
            pass

    def stop(self) -> None:
        """Ask the run to end."""
        run = self.run
        if run is not None:
            self.tell(run.stop)


def run_here(work: Any) -> Any:
    """Run a coroutine function's call to its end: on a loop in this thread, or in another if one runs here.

    Raises:
        UsageError: this thread's loop is that of a run, which would wait for itself.
    """
    loop = running_loop()
    if loop is None:
        try:
            return run_to_end(work)
        except RuntimeError as error:
            # A second Ctrl-C within milliseconds interrupts the Runner's own closing; uvloop then cannot be closed.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
    if is_ours(loop):
        raise UsageError(
            "a blocking call on the loop of a run would stop that run; write await flow.arun(), await flow.acollect()"
        )
    elsewhere = _Elsewhere(work)
    return elsewhere.result()


class _Elsewhere:
    """A blocking call under somebody's running loop (a notebook): its loop runs in a thread of its own."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self._cancel: Any = None
        self._value: Any = None
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._serve,), name="overlapped:loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._value = run_to_end(self._live)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._error = error

    async def _live(self) -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        return await self._work()

    def result(self) -> Any:
        """Wait for it; Ctrl-C cancels it and is raised once nothing of it is left."""
        try:
            while self._thread.is_alive():
                self._thread.join(LOOK_S)
        except BaseException:
            if self._cancel is not None:
                try:
                    self._cancel()
                except RuntimeError:
                    pass  # its loop is closed: it has just ended
            self._thread.join()
            raise
        if self._error is not None:
            raise self._error
        return self._value
