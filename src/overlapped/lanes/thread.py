"""Calls in threads of the stage's own: for functions that block."""

from __future__ import annotations

import asyncio
import contextvars
import math
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

from overlapped._engine.callables import is_for_loop
from overlapped._engine.ledger import Places
from overlapped._engine.ports import Outcome, Running
from overlapped._engine.resources import Opened
from overlapped._engine.trays import DROPPED, TRAY_SIZE, spread
from overlapped._engine.watch import run_delay_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FIRST_THREADS: Final = 8
"""Threads that a burst of jobs starts at once. While calls are still waiting a loop turn later there are twice as many
each turn: instant calls are over by then, and 100 threads for them would cost 17 ms (benchmarks/features.py)."""

ANY: Final = -1
"""An acknowledgement for whatever call the thread makes."""


class _Hand:
    """One thread: the call it makes now."""

    __slots__ = ("acks", "call", "place", "thread")

    def __init__(self, place: int) -> None:
        self.place = place
        self.call: Running | None = None  # written by the thread in one store, read by the loop in one load
        self.acks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # (which item, how many)
        self.thread: threading.Thread | None = None


class ThreadPort:
    """Threads that take jobs from one queue, so that a hop (34-53 us) is paid for a chunk, not for an item.

    Each stage of each run has its own: a flow inside a flow can never wait for its own threads. They are
    daemons, because a call that never returns must not keep the interpreter alive.

    Args:
        bind: called once in every thread with a place for what that thread opens; returns the function.
        name: the stage's name; the threads are named after it.
        clock: the run's clock.
        context: whose variables the calls see; left out, those of whoever makes the port.
        many: the function gives many results; generators are handed over bit by bit.
        loop_first: what could be iterated here too is left for the loop, as is what only a loop can finish.
        on_cleanup_error: told, on the loop, of an exception raised while a thread's resources were closed.
    """

    def __init__(
        self,
        bind: Callable[[Opened], Callable[[Any], object]],
        name: str,
        *,
        clock: Callable[[], float],
        context: contextvars.Context | None = None,
        many: bool = False,
        loop_first: bool = False,
        on_cleanup_error: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._bind = bind
        self._name = name
        self._clock = clock
        self._many = many
        self._loop_first = loop_first
        self._on_cleanup_error = on_cleanup_error
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context() if context is None else context
        self._jobs: deque[tuple[int, object]] = deque()
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one True for each job; False: leave
        self._outbox: list[Outcome] = []
        self._is_signalled = False
        self._hands: list[_Hand] = []
        self._places = Places()
        self.cpu_wait_s = 0.0  # of the threads that have ended
        self._limit = 1
        self._in_port = 0
        self._lock = threading.Lock()
        self._surplus = 0  # threads that are to leave
        self._staying = 0  # threads that have been started and have not decided to leave
        self._in_flight = 0
        self._is_closing = False
        self._is_growing = False  # more threads are to be started in the next turn of the loop
        self._left: asyncio.Event | None = None
        self._deliver: Callable[[list[Outcome]], None] = lambda outcomes: None

    # -- on the loop -------------------------------------------------------------------------------

    def open(self, deliver: Callable[[list[Outcome]], None]) -> None:
        """Be ready; threads start when there are jobs for them."""
        self._deliver = deliver

    def put(self, jobs: list[tuple[int, object]]) -> None:
        """Queue the jobs, and start threads for them up to the limit."""
        self._in_port += len(jobs)
        self._jobs.extend(jobs)
        for _ in jobs:
            self._calls.put(True)
        self._grow()

    def _grow(self) -> None:
        if self._is_growing or self._is_closing:
            return
        wanted = min(self._limit, self._in_port)
        enough = max(FIRST_THREADS, 2 * len(self._hands))
        while True:
            with self._lock:
                if (stay := self._staying - self._surplus) >= wanted:
                    return
                if stay >= enough:
                    break
                if self._surplus:  # one that was to leave may stay
                    self._surplus -= 1
                    continue
            if not self._start_thread():
                return
        self._is_growing = True
        self._loop.call_soon(self._grow_on)

    def _grow_on(self) -> None:
        self._is_growing = False
        self._grow()

    def _start_thread(self) -> bool:
        """Start one more; False if the system has none left but some are at work already.

        Raises:
            RuntimeError: the system has no thread left at all.
        """
        hand = _Hand(self._places.take())
        context = self._context.copy()
        hand.thread = threading.Thread(
            target=context.run, args=(self._serve, hand), name=f"overlapped:{self._name}", daemon=True
        )
        with self._lock:
            self._staying += 1
        self._hands.append(hand)
        try:
            hand.thread.start()
        except Exception:
            self._hands.remove(hand)
            self._places.give_back(hand.place)
            with self._lock:
                self._staying -= 1
            if not self._hands:
                raise
            return False
        return True

    def limit(self, n: int) -> None:
        """Threads above `n` leave after their call."""
        self._limit = n
        with self._lock:
            self._surplus = max(0, self._staying - n)
        self._grow()

    def withdraw(self) -> list[tuple[int, object]]:
        """Empty the queue; a thread that is called for a job that is no longer there waits again."""
        jobs: list[tuple[int, object]] = []
        while True:
            try:
                jobs.append(self._jobs.popleft())
            except IndexError:
                self._in_port -= len(jobs)
                return jobs

    def running(self) -> Iterable[Running]:
        """The threads that are in a call."""
        return [call for hand in self._hands if (call := hand.call) is not None]

    def acknowledge(self, index: int, count: int) -> None:
        """Let a generator go on; -1 tells it that nobody wants more."""
        for hand in self._hands:
            if (call := hand.call) is not None and call.number == index:
                hand.acks.put((index, count))

    def cancel(self, index: int) -> bool:
        """A thread cannot be cancelled."""
        return False

    async def close(self, grace_s: float) -> int:
        """Let all threads go; those whose call does not end within `grace_s` are abandoned."""
        self._is_closing = True
        self.withdraw()
        self._left = asyncio.Event()
        for hand in self._hands:
            self._calls.put(False)
            hand.acks.put((ANY, -1))
        deadline = self._loop.time() + grace_s
        while self._hands and (left_s := deadline - self._loop.time()) > 0:
            self._left.clear()
            try:
                await asyncio.wait_for(self._left.wait(), left_s)
            except TimeoutError:
                break
        self._drain()
        self._deliver = lambda outcomes: None  # the run is over: an abandoned call may still end some day
        return len(self._hands)

    def _drain(self) -> None:
        self._is_signalled = False  # before the copy: what comes after it signals again
        outcomes = self._outbox[:]
        del self._outbox[: len(outcomes)]
        self._in_port -= sum(outcome.kind != "part" for outcome in outcomes)
        if outcomes:
            self._deliver(outcomes)

    def _gone(self, hand: _Hand, errors: list[BaseException], waited_s: float) -> None:
        self.cpu_wait_s += waited_s
        self._hands.remove(hand)
        self._places.give_back(hand.place)
        if hand.thread is not None:
            hand.thread.join()  # it has nothing left to do
        if self._on_cleanup_error is not None:
            for error in errors:
                self._on_cleanup_error(error)
        if self._left is not None:
            self._left.set()
        else:
            self._grow()

    # -- in the threads ------------------------------------------------------------------------------

    def _call_loop(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: this thread had been abandoned
            pass

    def _send(self, outcome: Outcome) -> None:
        self._outbox.append(outcome)
        if not self._is_signalled:
            self._is_signalled = True
            self._call_loop(self._drain)

    def _serve(self, hand: _Hand) -> None:
        errors: list[BaseException] = []
        opened = Opened(errors.append)
        try:
            self._answer(hand, opened)
        finally:
            opened.close()
            self._call_loop(self._gone, hand, errors, run_delay_s(threading.get_native_id()))

    def _answer(self, hand: _Hand, opened: Opened) -> None:
        call: Callable[[Any], object] | None = None
        while self._calls.get():
            with self._lock:
                if self._surplus > 0:
                    self._surplus -= 1
                    self._staying -= 1
                    self._calls.put(True)  # for the threads that stay; the job keeps its place
                    return
                if not self._jobs:
                    continue  # it was withdrawn
                index, item = self._jobs.popleft()
                self._in_flight += 1
                in_flight = self._in_flight
            cpu = time.thread_time()  # outside of the wall clock's span: a short call must not look as if it waited
            started = self._clock()
            hand.call = Running(index, started)
            try:
                if call is None:
                    call = self._bind(opened)
                value: object = call(item)
                if self._many:
                    value = self._hand_out(hand, hand.call, value)
                kind: Literal["ok", "error"] = "ok"
            except BaseException as raised:  # noqa: BLE001 - becomes the item's failure, or ends the run
                kind, value = "error", raised
            ended = self._clock()
            cpu = time.thread_time() - cpu
            hand.call = None
            with self._lock:
                self._in_flight -= 1
            self._send(Outcome(index, kind, value, started, ended, cpu, in_flight, hand.place))
            del item  # nothing of an item is kept while the thread waits
            value = None

    def _hand_out(self, hand: _Hand, call: Running, value: Any) -> object:
        """Give a generator's outputs on as they come, never more than a tray ahead of their turn."""
        if is_for_loop(value, loop_first=self._loop_first):
            return value
        if not hasattr(value, "__next__"):
            return spread(value, self._name)
        results: Iterator[object] = value
        untaken = 0
        try:
            for result in results:
                self._send(Outcome(call.number, "part", [result]))
                untaken += 1
                while untaken >= TRAY_SIZE or not hand.acks.empty():
                    before = self._clock()
                    hand.call = call._replace(started_s=math.inf)  # waiting for its consumer is not its time
                    index, taken = hand.acks.get()
                    call = call._replace(started_s=call.started_s + self._clock() - before)
                    hand.call = call
                    if index not in (call.number, ANY):
                        continue  # meant for the call before
                    if taken < 0:
                        return DROPPED
                    untaken -= taken
        finally:
            close = getattr(results, "close", None)
            if close is not None:
                close()
        return DROPPED
