"""`to`: items land in a sink, batch by batch, on a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.failure import Failure, as_value
from overlapped._engine.feed import Feed, Through
from overlapped._engine.ledger import BLOCKED, ENDED, FULL, STARVED, Ledger, queued_before
from overlapped._engine.lineage import beside
from overlapped._engine.scope import GRACE_S
from overlapped.errors import UsageError
from overlapped.sinks.base import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.lineage import Mark
    from overlapped._engine.scope import Scope
    from overlapped.record import StageRecord
    from overlapped.sinks.base import Writer
    from overlapped.stages.base import Seat

MOST_A_WRITE: Final = 1_000
"""Items written at once: whatever has queued while the last write ran, at most this."""


class LandFeed(Through):
    """Passes items on once they have been written; an item that the sink refuses becomes a failure."""

    def __init__(self, up: Feed, scope: Scope, sink: Sink, *, is_fatal: bool) -> None:
        super().__init__(up)
        self.scope = scope
        self.sink = sink
        self.name = sink.describe()
        self.is_fatal = is_fatal
        self.done: deque[tuple[object, Mark]] = deque()
        self.marks = None if up.marks is None else []
        self.orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.writer: Writer | None = None
        self.opened: asyncio.Future[None] = scope.loop.create_future()
        self.closed: asyncio.Future[None] = scope.loop.create_future()
        self.is_writing = False
        self.is_closing = False
        self.is_broken = False
        self.ledger = Ledger(scope.started_s, scope.clock())
        self.writes = self.rows = self.refused = 0
        self.write_s = self.cpu_s = 0.0
        scope.accounts.append(self.record)

    # -- on the loop -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the sink in its thread; an error ends the run before the source is pulled."""
        target = self.scope.context.copy().run
        self.thread = threading.Thread(target=target, args=(self._serve,), name=f"overlapped:{self.name}", daemon=True)
        self.thread.start()
        self.scope.closers.append(self.close)
        await asyncio.shield(self.opened)

    def _heard(self) -> None:
        self.scope.guard(self._pump)

    def start(self) -> None:
        """Start upstream, then write."""
        super().start()
        self.ledger.begin(self.scope.clock())
        self._pump()

    def _pump(self) -> None:
        self._fill()
        now_s = self.scope.clock()
        is_full = len(self.done) >= MOST_A_WRITE
        self.ledger.enter(
            FULL if self.is_writing else BLOCKED if is_full else ENDED if self.up.ended else STARVED, now_s
        )
        if now_s >= self.ledger.next_point_s:
            self.ledger.point(
                now_s,
                limit=1,
                in_flight=int(self.is_writing),
                queue=queued_before(self),
                calls=self.writes,
                items_out=self.rows,
            )

    def _fill(self) -> None:
        if self.is_writing or self.is_broken or self.ended or len(self.done) >= MOST_A_WRITE:
            return
        chunk = self.up.take(MOST_A_WRITE)
        if chunk:
            self.is_writing = True
            marked = list(beside(self.up, chunk))
            self.orders.put(lambda: self._write(marked))
        elif self.up.ended and not self.is_closing:
            self.is_closing = True
            self.orders.put(lambda: self._close(ok=True))

    def take(self, want: int) -> list[object]:
        """What has been written."""
        if want <= 0 or self.ended:
            return []
        marked = [self.done.popleft() for _ in range(min(want, len(self.done)))]
        self._pump()
        self.ended = not self.done and (self.closed.done() or self.is_broken)
        if self.marks is not None:
            self.marks = [mark for _, mark in marked]
        return [item for item, _ in marked]

    def demand(self, total: int) -> None:
        """One to one."""
        self.up.demand(total)

    def halt(self) -> None:
        """Nothing more is wanted; what is being written is finished."""
        super().halt()
        self.done.clear()

    def _written(
        self,
        marked: list[tuple[object, Mark]],
        refused: dict[int, Exception],
        error: BaseException | None,
        timed: tuple[float, float, float],
    ) -> None:
        self.is_writing = False
        self._account(len(marked), len(refused), timed, has_failed=error is not None)
        if error is not None:
            self.is_broken = True
            self._break(error)
            self.up.halt()
        else:
            values = [i for i, (item, _) in enumerate(marked) if type(item) is not Failure]
            for row, why in refused.items():
                index = values[row]
                item, mark = marked[index]
                marked[index] = (Failure(why, self.name, item), mark)
            self.done.extend(marked)
            if refused and self.is_fatal:
                self.is_broken = True
                self.up.halt()
        if not self.scope.closing:
            self._pump()
            self.notify()

    def _account(self, rows: int, refused: int, timed: tuple[float, float, float], *, has_failed: bool) -> None:
        """One write has ended."""
        started_s, ended_s, cpu_s = timed
        self.writes += 1
        self.write_s += ended_s - started_s
        self.cpu_s += cpu_s
        if has_failed:
            self.ledger.note_failed(self.writes - 1, 0, started_s, ended_s, again=False)
            return
        self.rows += rows - refused
        self.refused += refused
        if ended_s - started_s > self.ledger.edge_s or not self.writes % self.ledger.stride:
            self.ledger.note(self.writes - 1, 0, started_s, ended_s)

    def record(self, whole: bool = True) -> StageRecord:
        """The account so far: a write is a call."""
        from overlapped.record import StageRecord

        return StageRecord(
            name=self.name,
            verb="to",
            lane="thread",
            why="a sink writes on a thread of its own",
            limit=1,
            limit_range=(1, 1),
            reason="fixed",
            in_flight=int(self.is_writing),
            ahead=len(self.done),
            items_in=self.rows + self.refused,
            items_out=self.rows,
            calls=self.writes,
            retries=0,
            failed=self.refused,
            timeouts=0,
            parked=0,
            service_s=self.write_s,
            cpu_s=self.cpu_s,
            starved_s=0.0,
            blocked_s=0.0,
            paused_s=0.0,
            decisions=(),
            times=self.ledger.times(self.scope.clock()),
            latencies=self.ledger.latencies(),
            kept_calls=self.ledger.kept_calls() if whole else (),
            points=self.ledger.points,
            queued_s=self.ledger.queued_s,
        )

    def _break(self, error: BaseException) -> None:
        """The sink itself has failed: that comes after what has been written, and nothing after it."""
        self.done.append((Failure(as_value(error, self.name), self.name, dead=True), ()))

    def _closed(self, error: BaseException | None) -> None:
        if error is not None:
            if self.scope.closing:
                self.scope.cleanup_errors.append(error)
            else:
                self._break(error)
        if not self.closed.done():
            self.closed.set_result(None)
        self.notify()

    async def close(self) -> None:
        """Finish the write that runs, then close; what was written stays."""
        if self.thread is None:
            return
        if not self.is_closing:
            self.is_closing = True
            self.orders.put(lambda: self._close(ok=False))
        self.orders.put(None)
        try:
            await asyncio.wait_for(asyncio.shield(self.closed), GRACE_S)
            self.thread.join()  # it has nothing left to do
        except TimeoutError:
            warnings.warn(f"{self.name}: blocked and was abandoned in its thread", ResourceWarning, stacklevel=2)

    # -- in the thread -----------------------------------------------------------------------------------

    def _tell(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.scope.loop.call_soon_threadsafe(self.scope.guard, call, *args)
        except RuntimeError:  # the loop is closed: the interpreter is going down
            pass

    def _serve(self) -> None:
        try:
            self.writer = self.sink.open()
        except BaseException as error:  # noqa: BLE001 - raised to whoever starts the run
            self._tell(_settle, self.opened, error)
            self._tell(self._closed, None)
            return
        self._tell(_settle, self.opened, None)
        while (order := self.orders.get()) is not None:
            order()

    def _write(self, marked: list[tuple[object, Mark]]) -> None:
        assert self.writer is not None
        refused: dict[int, Exception] = {}
        error: BaseException | None = None
        started_s, cpu_s = self.scope.clock(), time.thread_time()
        try:
            rows = [item for item, _ in marked if type(item) is not Failure]
            if rows:
                refused = self.writer.write(rows)
        except BaseException as raised:  # noqa: BLE001 - travels to the end of the flow
            error = raised
        timed = (started_s, self.scope.clock(), time.thread_time() - cpu_s)
        self._tell(self._written, marked, refused, error, timed)

    def _close(self, *, ok: bool) -> None:
        assert self.writer is not None
        error: BaseException | None = None
        try:
            self.writer.close(ok)
        except BaseException as raised:  # noqa: BLE001 - a clean-up error is never lost
            error = raised
        self._tell(self._closed, error)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # seen, even if the run has been left meanwhile


class Land:
    """The last stage of a flow with a sink."""

    __slots__ = ("sink",)
    verb = "to"

    def __init__(self, sink: object) -> None:
        if isinstance(sink, type) or not isinstance(sink, Sink):
            raise UsageError(f'to(sink): a sink is needed, got {sink!r}; write .to(Jsonl("out.jsonl"))')
        self.sink: Sink = sink

    @property
    def name(self) -> str:
        """The sink in words."""
        return self.sink.describe()

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """A feed of what has been written."""
        feed = LandFeed(up, scope, self.sink, is_fatal=seat.is_fatal)
        scope.openers.append(feed.open)
        return feed

    def explain(self) -> str:
        """The sink in words."""
        return f"to {self.name}: batches on a thread of its own"
