"""Sources as feeds: on the loop, in a thread of their own, or in a task of their own."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import warnings
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import is_for_loop
from overlapped._engine.failure import Failure, as_value
from overlapped._engine.feed import Feed
from overlapped._engine.scope import GRACE_S, cancelled_from_outside, running_task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from overlapped._engine.scope import Scope

LOOP_CHUNK: Final = 4_096
"""Most items pulled on the loop at once: about 0.1 ms of a list or a range."""


DRAIN_S: Final = 0.5
"""How long a drained source may take to come back from its `next`; what it gives later is dropped."""


class Buffered(Feed):
    """Items that something else produces, as far as they have been asked for.

    `allowed` is how many items may have been produced in all: what has been taken and what was
    wanted beyond it. So a stopped consumer stops the source.
    """

    is_source = True  # and no generator over the items of another feed

    def __init__(self, name: str, scope: Scope) -> None:
        self.name = name
        self.clock = scope.clock
        self.began_s = self.ended_s = math.inf
        self.idle_s = 0.0  # what was produced was all that had been asked for
        scope.pulled.append(self)
        self.buffer: deque[object] = deque()
        self.produced = 0
        self.allowed = 0
        self.taken = 0
        self.is_finished = False
        self.is_listening = False

    def take(self, want: int) -> list[object]:
        """What has been produced; the producer may go on up to `want`."""
        buffer = self.buffer
        chunk = [buffer.popleft() for _ in range(min(want, len(buffer)))]
        self.taken += len(chunk)
        if self.taken + want - len(chunk) > self.allowed and not self.is_finished:
            self.allowed = self.taken + want - len(chunk)
            self.go_on()
        if not chunk and want > 0:
            if self.is_finished and not buffer:
                self.ended = True
            self.is_listening = True
            if buffer:  # a thread has added to it meanwhile
                return self.take(want)
        return chunk

    def go_on(self) -> None:
        """`allowed` has grown."""
        raise NotImplementedError

    def busy_s(self) -> float:
        """How long it has been producing, what it waited for itself included, s."""
        now_s = min(self.clock(), self.ended_s)
        return max(0.0, now_s - self.began_s - self.idle_s) if self.began_s != math.inf else 0.0

    def hear(self) -> None:
        """On the loop: something was produced, or it has ended."""
        if self.is_listening:
            self.is_listening = False
            if self.is_finished and not self.buffer:
                self.ended = True
            self.notify()

    def broken(self, error: BaseException) -> None:
        """The source's frame is dead: its error comes after all earlier items, and nothing after it."""
        self.buffer.append(Failure(as_value(error, self.name), self.name, dead=True))


class LoopFeed(Feed):
    """Containers, ranges and regular files: pulled on the loop, since their next item never waits long."""

    def __init__(self, source: Iterable[object], name: str, *, is_free: bool = False) -> None:
        self.is_free = is_free
        self._source = source
        self._name = name
        self._iterator: Iterator[object] | None = None

    def take(self, want: int) -> list[object]:
        """The next `want` items."""
        if self.ended or want <= 0:
            return []
        chunk: list[object] = []
        try:
            if self._iterator is None:
                self._iterator = iter(self._source)
            chunk.extend(islice(self._iterator, min(want, LOOP_CHUNK)))  # keeps the items before an error
        except BaseException as error:  # noqa: BLE001 - the source's own; it travels after the items before it
            chunk.append(Failure(as_value(error, self._name), self._name, dead=True))
            self.ended = True
        if not chunk:
            self.ended = True
        return chunk

    def drain(self) -> None:
        """Pull nothing more."""
        self.ended = True
        self.notify()


class ThreadFeed(Buffered):
    """Any other iterator: `iter`, `next` and `close` in one thread for its whole life."""

    def __init__(self, make: Callable[[], Iterable[object]], name: str, scope: Scope, *, closes: bool = True) -> None:
        super().__init__(name, scope)
        self._make = make
        self._scope = scope
        self._closes = closes
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_waiting = False  # the thread waits for an order
        self._is_stopped = False
        self._is_told = False  # the loop has been told of items that it has not looked at
        self._has_left = asyncio.Event()
        self._thread: threading.Thread | None = None
        self.on_async: Callable[[object], None] | None = None

    # -- on the loop ---------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Start the thread, or wake it."""
        if self._is_stopped:
            return
        if self._thread is None:
            context = self._scope.context.copy()
            self._thread = threading.Thread(
                target=context.run, args=(self._serve,), name=f"overlapped:{self.name}", daemon=True
            )
            try:
                self._thread.start()
            except Exception as error:  # noqa: BLE001 - no more threads are to be had; it ends the run
                self.broken(error)
                self.is_finished = True
                return
            self._scope.closers.append(self.close)
        elif self._is_waiting:
            self._orders.put(True)

    def halt(self) -> None:
        """Let the thread close the iterator."""
        self._stop()
        self.ended = True
        self.buffer.clear()

    def drain(self) -> None:
        """Deliver what has been produced; do not wait long for a `next` that blocks."""
        self._stop()
        if self._thread is None:
            self._finish()
        else:
            self._scope.later(DRAIN_S, self._finish)

    def _finish(self) -> None:
        self.is_finished = True
        self.is_listening = True
        self.hear()

    def _stop(self) -> None:
        if not self._is_stopped:
            self._is_stopped = True
            self._orders.put(False)

    async def close(self) -> None:
        """Wait for the thread to close the iterator; one that blocks is abandoned, with a warning."""
        self._stop()
        try:
            await asyncio.wait_for(self._has_left.wait(), GRACE_S)
            if self._thread is not None:
                self._thread.join()  # it has nothing left to do
        except TimeoutError:
            warnings.warn(
                f"{self.name}: blocked in next() and was abandoned in its thread", ResourceWarning, stacklevel=2
            )

    def _left(self, error: BaseException | None) -> None:
        self._has_left.set()
        if error is not None:
            self._scope.cleanup_errors.append(error)
        self.hear()

    # -- in the thread ---------------------------------------------------------------------------------

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._scope.loop.call_soon_threadsafe(self._scope.guard, call, *args)
        except RuntimeError:  # the loop is closed: this thread had been abandoned
            pass

    def produce(self, item: object) -> None:
        """Add an item and tell the loop, once for all items that it has not looked at."""
        self.buffer.append(item)
        self.produced += 1
        if self.is_listening and not self._is_told:
            self._is_told = True
            self._tell(self.hear)

    def hear(self) -> None:
        """On the loop: something was produced, or it has ended."""
        self._is_told = False  # before the look: what comes after it tells again
        super().hear()

    def _serve(self) -> None:
        iterator: object = None
        error: BaseException | None = None
        self.began_s = self.clock()
        try:
            source = self._make()
            if self.on_async is not None and is_for_loop(source):
                self._tell(self.on_async, source)
                self._tell(self._has_left.set)
                return
            iterator = iter(source)
            self._pull(iterator)
        except BaseException as raised:  # noqa: BLE001 - the source's own; it travels after the items before it
            self.broken(raised)
        self.ended_s = self.clock()
        try:
            if self._closes and (close := getattr(iterator, "close", None)) is not None:
                close()
        except BaseException as raised:  # noqa: BLE001 - a clean-up error is never lost
            error = raised
        self.is_finished = True
        self._tell(self._left, error)

    def _pull(self, iterator: Iterator[object]) -> None:
        while self._may_go_on():
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.produce(item)

    def _may_go_on(self) -> bool:
        """Wait until another item is allowed."""
        while self.produced >= self.allowed:
            self._is_waiting = True
            if self.produced < self.allowed:  # the order came between the two lines above
                self._is_waiting = False
                break
            before_s = self.clock()
            order = self._orders.get()
            self.idle_s += self.clock() - before_s
            if not order:
                return False
            self._is_waiting = False
        return not self._is_stopped


class TaskFeed(Buffered):
    """An async iterator: iterated and closed by one task."""

    def __init__(self, make: Callable[[], Coroutine[object, object, Any]], name: str, scope: Scope) -> None:
        super().__init__(name, scope)
        self._make = make
        self._scope = scope
        self._order = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        self.on_sync: Callable[[object], None] | None = None

    def go_on(self) -> None:
        """Start the task, or wake it."""
        self._order.set()
        if self._task is None and not self.is_finished:
            self._task = self._scope.spawn(self._pull(), self.name)

    def halt(self) -> None:
        """Cancel the task; it closes the iterator."""
        self.ended = True
        self.buffer.clear()
        self._cancel()

    def drain(self) -> None:
        """Cancel the pull that is under way; deliver what has been produced."""
        self._cancel()
        self.is_listening = True
        self.hear()

    def _cancel(self) -> None:
        self.is_finished = True
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    async def _pull(self) -> None:
        iterator: Any = None
        self.began_s = self.clock()
        try:
            source = await self._make()
            if self.on_sync is not None and not hasattr(source, "__aiter__"):
                self.on_sync(source)
                return
            iterator = source.__aiter__()
            while not self.is_finished:
                while self.produced >= self.allowed:
                    self._order.clear()
                    before_s = self.clock()
                    await self._order.wait()
                    self.idle_s += self.clock() - before_s
                try:
                    self.buffer.append(await iterator.__anext__())
                except StopAsyncIteration:
                    return
                self.produced += 1
                self.hear()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self.broken(error)  # the source raised it by itself
            elif not (self.is_finished or self._scope.closing):
                self._scope.abort(cancelled_from_outside(self.name, error))
        except BaseException as error:  # the source's own; it travels after the items before it
            if isinstance(error, GeneratorExit) and running_task() is not self._task:
                raise  # nobody raised it: this coroutine is being closed, since its loop is gone
            self.broken(error)
        finally:
            self.ended_s = self.clock()
            await self._close(iterator)
            self.is_finished = True
            self.hear()

    async def _close(self, iterator: object) -> None:
        close = getattr(iterator, "aclose", None)
        if close is None:
            return
        try:
            await close()
        except BaseException as error:  # noqa: BLE001 - a clean-up error is never lost
            self._scope.cleanup_errors.append(error)
