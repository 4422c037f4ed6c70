"""`through`: one generator over all items - an iterator stage, or a coroutine `x = yield y`."""

from __future__ import annotations

import inspect
import queue
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import describe_generator
from overlapped._engine.failure import Failure, as_value
from overlapped._engine.feed import Feed, Through
from overlapped._engine.pulled import TaskFeed, ThreadFeed
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator

    from overlapped._engine.scope import Scope
    from overlapped.stages.base import Seat

INBOX_CHUNK: Final = 256
"""Items handed to a generator's thread at once: a hop costs about 50 us, so 0.2 us an item."""


class SendFeed(Through):
    """A generator coroutine: each item is sent in, and what it yields comes out in the item's place."""

    def __init__(self, up: Feed, scope: Scope, make: Callable[[], Generator[Any, Any, Any]], name: str) -> None:
        super().__init__(up)
        self.scope = scope
        self.make = make
        self.name = name
        self.coroutine: Generator[Any, Any, Any] | None = None
        self.marks = up.marks

    def take(self, want: int) -> list[object]:
        """One output for each input; failures pass by."""
        if self.ended:
            return []
        chunk = self.up.take(want)
        self.marks = self.up.marks
        result: list[object] = []
        try:
            for item in chunk:
                if type(item) is Failure:
                    result.append(item)
                else:
                    result.append(self._begun().send(item))
        except StopIteration:
            self.halt()  # it returned: that is how it says that it has seen enough
        except BaseException as error:  # noqa: BLE001 - the coroutine's own; it travels after the results before it
            result.append(Failure(as_value(error, self.name), self.name, dead=True))
            self.halt()
        if self.marks is not None:
            self.marks = self.marks[: len(result)]
        if not chunk:
            self.ended = self.up.ended
        return result

    def _begun(self) -> Generator[Any, Any, Any]:
        if self.coroutine is None:
            self.coroutine = self.make()
            self.scope.closers.append(self._close)
            next(self.coroutine)  # up to its first yield, whose value nobody has asked for
        return self.coroutine

    def demand(self, total: int) -> None:
        """One to one."""
        self.up.demand(total)

    async def _close(self) -> None:
        if self.coroutine is not None:
            self.coroutine.close()


class _Inbox:
    """The items as a generator in a thread sees them: an iterator that blocks."""

    def __init__(self, up: Feed, scope: Scope) -> None:
        self.up = up
        self.scope = scope
        self.items: queue.SimpleQueue[list[object] | None] = queue.SimpleQueue()
        self.is_asked = False
        self.is_closed = False
        self.pass_by: Callable[[Failure], None] = lambda failure: None
        up.listen(self._heard)

    def _heard(self) -> None:
        self.scope.guard(self._fill)

    def _fill(self) -> None:
        if not self.is_asked:
            return
        chunk = self.up.take(INBOX_CHUNK)
        if chunk:
            self.is_asked = False
            self.items.put(chunk)
        elif self.up.ended:
            self.is_asked = False
            self.items.put(None)

    def close(self) -> None:
        """Unblock the thread: there are no more items."""
        self.is_closed = True
        self.items.put(None)

    def _ask(self) -> None:
        self.is_asked = True
        self._heard()

    def __iter__(self) -> Iterator[object]:
        """In the thread: the items, in order."""
        while not self.is_closed:
            self.scope.loop.call_soon_threadsafe(self._ask)
            chunk = self.items.get()
            if chunk is None:
                return
            for item in chunk:
                if type(item) is Failure:
                    self.pass_by(item)
                    if item.dead:
                        return
                else:
                    yield item


class _AsyncInbox:
    """The items as an async generator sees them."""

    def __init__(self, up: Feed, scope: Scope) -> None:
        self.up = up
        self.scope = scope
        self.waiter: Any = None
        self.pass_by: Callable[[Failure], None] = lambda failure: None
        up.listen(self._heard)

    def _heard(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def __aiter__(self) -> AsyncIterator[object]:
        """The items, in order."""
        while True:
            chunk = self.up.take(INBOX_CHUNK)
            if not chunk:
                if self.up.ended:
                    return
                self.waiter = self.scope.loop.create_future()
                await self.waiter
                continue
            for item in chunk:
                if type(item) is Failure:
                    self.pass_by(item)
                    if item.dead:
                        return
                else:
                    yield item


class GeneratorFeed(ThreadFeed):
    """A generator function over all items, in a thread of its own."""

    is_source = False

    def __init__(self, up: Feed, scope: Scope, fn: Callable[[Any], Any], name: str) -> None:
        self.up = up
        self.inbox = _Inbox(up, scope)
        super().__init__(lambda: fn(iter(self.inbox)), name, scope)
        self.inbox.pass_by = self.produce

    def start(self) -> None:
        """Start upstream."""
        self.up.start()

    def halt(self) -> None:
        """Let the generator see the end of its items, then close it."""
        self.up.halt()
        self.inbox.close()
        super().halt()

    def drain(self) -> None:
        """Upstream ends, so the generator does."""
        self.up.drain()

    def _left(self, error: BaseException | None) -> None:
        self.up.halt()  # it has ended: what it has not asked for is not wanted
        super()._left(error)

    async def close(self) -> None:
        """Unblock the thread, then wait for it."""
        self.inbox.close()
        await super().close()


class AsyncGeneratorFeed(TaskFeed):
    """An async generator function over all items, in a task of its own."""

    is_source = False

    def __init__(self, up: Feed, scope: Scope, fn: Callable[[Any], Any], name: str) -> None:
        self.up = up
        inbox = _AsyncInbox(up, scope)

        async def make() -> Any:
            return fn(inbox.__aiter__())

        super().__init__(make, name, scope)
        inbox.pass_by = self._pass_by

    async def _close(self, iterator: object) -> None:
        self.up.halt()  # as in a thread
        await super()._close(iterator)

    def _pass_by(self, failure: Failure) -> None:
        self.buffer.append(failure)
        self.produced += 1
        self.hear()

    def start(self) -> None:
        """Start upstream."""
        self.up.start()

    def halt(self) -> None:
        """Halt upstream, and cancel the task."""
        self.up.halt()
        super().halt()

    def drain(self) -> None:
        """Upstream ends, so the generator does."""
        self.up.drain()


class Transduce:
    """A generator function that sees all items, made anew for every run."""

    __slots__ = ("fn", "name", "shape")
    verb = "through"

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.shape = describe_generator(fn)
        self.fn = fn
        self.name: str = str(getattr(fn, "__name__", None) or getattr(getattr(fn, "func", fn), "__name__", "through"))

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """The feed of what it yields."""
        if self.shape == "transducer":
            return SendFeed(up, scope, self.fn, self.name)
        if self.shape == "producer":
            return GeneratorFeed(up, scope, self.fn, self.name)
        return AsyncGeneratorFeed(up, scope, self.fn, self.name)

    def explain(self) -> str:
        """How it is driven."""
        how = {
            "transducer": "x = yield y, inline by send: one output an input",
            "producer": "a generator over all items, in a thread of its own",
            "async_producer": "an async generator over all items, in a task of its own",
        }
        return f"through {self.name}: {how[self.shape]}"


def refuse_object(value: object) -> None:
    """Refuse what only looks like a stage.

    Raises:
        UsageError: `value` is a class.
    """
    if inspect.isclass(value):
        raise UsageError(f"through({value.__name__}): a class was given; write .through({value.__name__}(...))")
