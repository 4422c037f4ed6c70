"""READ FIRST: `flow()` and `Flow`. They describe what is to be done and start nothing.

Over 400 lines, because every method is documented and typed in full here; each does one line of work.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from overlapped.control.auto import AUTO, Auto
from overlapped.errors import UsageError
from overlapped.sources.any import Source
from overlapped.stages.base import Seat, Stage
from overlapped.stages.batch import Batch, Flatten
from overlapped.stages.calls import CallStage, Options
from overlapped.stages.catch import NOTHING, Catch
from overlapped.stages.select import Skip, Take

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
    from contextlib import AbstractContextManager

    from overlapped._engine.feed import Feed
    from overlapped._engine.scope import Scope
    from overlapped.control.base import ControllerSpec
    from overlapped.items import AsyncItems, Items, Scoped
    from overlapped.rate import Rate
    from overlapped.record import RunRecord
    from overlapped.report.dashboard import Dashboard
    from overlapped.report.report import Report
    from overlapped.retry import Retry
    from overlapped.sinks.base import Sink

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
E = TypeVar("E", bound=Exception)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

OnFailure = Literal["raise", "keep"]

MOST_NESTED: Final = 100
"""Flows within flows: each costs three calls within calls, eight with a few stages between, and Python allows 1,000."""

if TYPE_CHECKING:
    Made = Iterable[T] | AsyncIterable[T]
    AnySource = Made[T] | Callable[[], Made[T]] | Callable[[], Awaitable[Made[T]]]
    """What can be iterated, or a function that gives it."""


class CallOptions(TypedDict, total=False):
    """How the calls of `map`, `flat_map`, `filter` and `tap` are made. All are optional.

    concurrency: most calls in flight: AUTO (measured), an int >= 1, or a ControllerSpec.
    ordered: True (default): results leave in the order of their items; False: as completed.
    on: the lane: AUTO, "coroutine", "thread", "inline", "process", "greenlet", "ray".
    retry: which failed calls are made again: Retry(...).
    timeout_s: longest time for one attempt, s; queueing does not count.
    rate: how often calls may start: Rate(100, per_s=1).
    key, per_key: at most per_key calls (or a Rate) for items with the same key(item).
    name: what reports call the stage; the function's name by default.
    """

    concurrency: int | ControllerSpec
    ordered: bool
    on: Auto | Literal["coroutine", "thread", "inline", "process", "greenlet", "ray"]
    retry: Retry | None
    timeout_s: float | None
    rate: Rate | None
    key: Callable[[Any], object] | None
    per_key: int | Rate | None
    name: str | None


@overload
def flow(source: Callable[[], Awaitable[Iterable[T]] | AsyncIterable[T]], /) -> Flow[T]: ...
@overload
def flow(source: Iterable[T] | AsyncIterable[T], /) -> Flow[T]: ...
@overload
def flow(source: Callable[[], Iterable[T]], /) -> Flow[T]: ...
def flow(source: Any, /) -> Flow[Any]:
    """A flow over the items of `source`: lazy, immutable, and nothing runs yet.

    Args:
        source: an iterable, a generator, an async iterable, another flow, or a function without arguments
            that returns one of these (made anew for every run). May be infinite. Items are pulled only as
            far ahead as the stages can use them.

    Raises:
        UsageError: `source` cannot be iterated, or is a `str`, or has come to its end; the message shows
            what to write instead.

    Example:
        >>> flow(range(3)).map(lambda x: x * 10).collect()
        [0, 10, 20]
    """
    if isinstance(source, Flow):
        source.refuse_sink("flow")
        return source
    return Flow(Source(source))


def merge(*sources: AnySource[T]) -> Flow[T]:
    """A flow over the items of all `sources` as they come, each getting its turn.

    Raises:
        UsageError: no source was given, or one of them cannot be iterated.
    """
    return Flow(_several("merge", sources))


def concat(*sources: AnySource[T]) -> Flow[T]:
    """A flow over all items of the first source, then all of the second, ...

    Raises:
        UsageError: no source was given, or one of them cannot be iterated.
    """
    return Flow(_several("concat", sources))


@overload
def zip_(a: AnySource[A], /) -> Flow[tuple[A]]: ...
@overload
def zip_(a: AnySource[A], b: AnySource[B], /) -> Flow[tuple[A, B]]: ...
@overload
def zip_(a: AnySource[A], b: AnySource[B], c: AnySource[C], /) -> Flow[tuple[A, B, C]]: ...
@overload
def zip_(a: AnySource[A], b: AnySource[B], c: AnySource[C], d: AnySource[D], /) -> Flow[tuple[A, B, C, D]]: ...
@overload
def zip_(*sources: AnySource[T]) -> Flow[tuple[T, ...]]: ...
def zip_(*sources: Any) -> Flow[Any]:
    """A flow over tuples of one item from each source, as long as the shortest.

    Raises:
        UsageError: no source was given, or one of them cannot be iterated.
    """
    return Flow(_several("zip_", sources))


class _Several:
    """Several flows as one source."""

    def __init__(self, how: str, flows: tuple[Flow[Any], ...]) -> None:
        self.how = how
        self.flows = flows
        self.depth: int = 1 + max(one.depth for one in flows)
        self.name = f"{how}({', '.join(f.source_name for f in flows)})"

    def feed(self, scope: Scope) -> Feed:
        """The feed of one run."""
        from overlapped.sources.several import FEEDS

        return FEEDS[self.how]([f.attach(scope, is_inner=True) for f in self.flows])

    def check_usable(self) -> None:
        """Refuse iterators that have been used."""
        for one in self.flows:
            one.check()

    def explain(self) -> str:
        """What it is made of."""
        return f"source {self.name}"


def _several(how: str, sources: tuple[Any, ...]) -> _Several:
    if not sources:
        raise UsageError(f"{how}(): give at least one source; write {how}(first, second)")
    flows = tuple(flow(source) for source in sources)
    for one in flows:
        one.refuse_sink(how)
        if one.factories:
            raise UsageError(f"{how}(): resources belong to the whole run; write {how}(...).using(...)")
    if how == "concat":
        flows = tuple(part for one in flows for part in _concatenated(one))
    made = _Several(how, flows)
    if made.depth > MOST_NESTED:
        raise UsageError(f"{how}(): it is nested more than {MOST_NESTED} deep; write {how}(*flows), of all at once")
    return made


def _concatenated(one: Flow[Any]) -> tuple[Flow[Any], ...]:
    """What comes one after the other in it: a `concat` in a `concat` is one of all."""
    source, stages = one._source, one._stages  # noqa: SLF001 - a class of this module
    return source.flows if isinstance(source, _Several) and source.how == "concat" and not stages else (one,)


class Flow(Generic[T_co]):
    """A source and its stages, described; every iteration is a new run.

    Write it with `flow(source)`. Each method returns a new flow and leaves this one as it was.
    """

    __slots__ = ("_factories", "_per_worker", "_source", "_stages")

    def __init__(
        self,
        source: Source | _Several,
        stages: tuple[Stage, ...] = (),
        factories: tuple[tuple[str, Callable[[], Any]], ...] = (),
        per_worker: frozenset[str] = frozenset(),
    ) -> None:
        self._source = source
        self._stages = stages
        self._factories = factories
        self._per_worker = per_worker

    def _with(self, stage: Stage) -> Flow[Any]:
        self.refuse_sink(stage.verb)
        return Flow(self._source, (*self._stages, stage), self._factories, self._per_worker)

    # -- stages --------------------------------------------------------------------------------------

    @overload
    def map(self, fn: Callable[[T_co], Awaitable[R]], /, **options: Unpack[CallOptions]) -> Flow[R]: ...
    @overload
    def map(self, fn: Callable[[T_co], R], /, **options: Unpack[CallOptions]) -> Flow[R]: ...
    # A function with resources is no Callable[[T], R], so it does reach these two.
    @overload
    def map(  # type: ignore[overload-cannot-match]
        self, fn: Callable[Concatenate[T_co, ...], Awaitable[R]], /, **options: Unpack[CallOptions]
    ) -> Flow[R]: ...
    @overload
    def map(  # type: ignore[overload-cannot-match]
        self, fn: Callable[Concatenate[T_co, ...], R], /, **options: Unpack[CallOptions]
    ) -> Flow[R]: ...
    def map(self, fn: Callable[..., Any], /, **options: Unpack[CallOptions]) -> Flow[Any]:
        """One call of `fn` for each item; its result takes the item's place.

        Args:
            fn: `async def` (awaited on the loop) or plain (called in threads, so it may block - and so it
                may be called from several threads at once). Parameters beyond the item are resources,
                see `using`.
            options: see `CallOptions`.

        Raises:
            UsageError: `fn` or an option cannot work; the message shows what to write instead.

        Example:
            >>> flow([1, 2]).map(str).collect()
            ['1', '2']
        """
        return self._with(CallStage("map", fn, _options("map", options)))

    @overload
    def flat_map(
        self, fn: Callable[[T_co], Awaitable[Iterable[R]] | AsyncIterable[R]], /, **options: Unpack[CallOptions]
    ) -> Flow[R]: ...
    @overload
    def flat_map(self, fn: Callable[[T_co], Iterable[R]], /, **options: Unpack[CallOptions]) -> Flow[R]: ...
    # A function with resources is no Callable[[T], ...], so it does reach these two.
    @overload
    def flat_map(  # type: ignore[overload-cannot-match]
        self,
        fn: Callable[Concatenate[T_co, ...], Awaitable[Iterable[R]] | AsyncIterable[R]],
        /,
        **options: Unpack[CallOptions],
    ) -> Flow[R]: ...
    @overload
    def flat_map(  # type: ignore[overload-cannot-match]
        self, fn: Callable[Concatenate[T_co, ...], Iterable[R]], /, **options: Unpack[CallOptions]
    ) -> Flow[R]: ...
    def flat_map(self, fn: Callable[..., Any], /, **options: Unpack[CallOptions]) -> Flow[Any]:
        """Many results for each item: `fn` returns an iterable, or is a generator or async generator function.

        What a generator has yielded is handed on at once and stays, even if it fails later. It is tried
        again only if it had yielded nothing.

        Example:
            >>> flow([1, 2]).flat_map(lambda n: [n] * n).collect()
            [1, 2, 2]
        """
        return self._with(CallStage("flat_map", fn, _options("flat_map", options)))

    @overload
    def filter(self, fn: Callable[[T_co], object], /, **options: Unpack[CallOptions]) -> Flow[T_co]: ...
    @overload
    def filter(  # type: ignore[overload-cannot-match]  # as for map
        self, fn: Callable[Concatenate[T_co, ...], object], /, **options: Unpack[CallOptions]
    ) -> Flow[T_co]: ...
    def filter(self, fn: Callable[..., object], /, **options: Unpack[CallOptions]) -> Flow[T_co]:
        """Only the items for which `fn(item)` is true.

        Example:
            >>> flow(range(5)).filter(lambda n: n % 2).collect()
            [1, 3]
        """
        return self._with(CallStage("filter", fn, _options("filter", options)))

    @overload
    def tap(self, fn: Callable[[T_co], object], /, **options: Unpack[CallOptions]) -> Flow[T_co]: ...
    @overload
    def tap(  # type: ignore[overload-cannot-match]  # as for map
        self, fn: Callable[Concatenate[T_co, ...], object], /, **options: Unpack[CallOptions]
    ) -> Flow[T_co]: ...
    def tap(self, fn: Callable[..., object], /, **options: Unpack[CallOptions]) -> Flow[T_co]:
        """Call `fn(item)` for what it does; the item goes on unchanged.

        Example:
            >>> flow([1]).tap(print).collect()
            1
            [1]
        """
        return self._with(CallStage("tap", fn, _options("tap", options)))

    def take(self, n: int, /) -> Flow[T_co]:
        """The first `n` items; the flow ends with item `n`, without asking for another.

        Example:
            >>> flow(iter(int, 1)).take(2).collect()
            [0, 0]
        """
        return self._with(Take(n))

    def skip(self, n: int, /) -> Flow[T_co]:
        """All items but the first `n`."""
        return self._with(Skip(n))

    def batch(self, size: int | Auto = AUTO, *, linger_s: float | None = None) -> Flow[list[T_co]]:
        """Items to lists.

        Args:
            size: exactly so many items a list (the last may be shorter). AUTO: whatever has queued when the
                next stage is free, so it never waits to fill.
            linger_s: longest an unfinished list waits, s; without it, until it is full.

        Example:
            >>> flow(range(5)).batch(2).collect()
            [[0, 1], [2, 3], [4]]
        """
        return self._with(Batch(size, linger_s))

    def flatten(self: Flow[Iterable[R]]) -> Flow[R]:
        """The items of each item, one after the other, lazily.

        Example:
            >>> flow([[1, 2], [3]]).flatten().collect()
            [1, 2, 3]
        """
        return self._with(Flatten())

    @overload
    def through(self, fn: Callable[[], Generator[R, T_co, Any]], /) -> Flow[R]: ...
    @overload
    def through(self, fn: Callable[[AsyncIterator[T_co]], AsyncIterable[R]], /) -> Flow[R]: ...
    @overload
    def through(self, fn: Callable[[Iterator[T_co]], Iterable[R]], /) -> Flow[R]: ...
    @overload
    def through(self, fn: Stage, /) -> Flow[Any]: ...
    def through(self, fn: Any, /) -> Flow[Any]:
        """All items through one generator, made anew for every run.

        Args:
            fn: a generator function of the items (`for item in items: yield ...`), which gets a thread of
                its own; an async one, which gets a task; a generator function without parameters, a
                coroutine `item = yield result`, which is sent each item and gives one result for it; or a
                `Stage` of your own.

        Example:
            >>> def running_total():
            ...     total = 0
            ...     while True:
            ...         total += yield total
            >>> flow([1, 2, 3]).through(running_total).collect()
            [1, 3, 6]
        """
        from overlapped.stages.transduce import Transduce, refuse_object

        self.refuse_sink("through")
        refuse_object(fn)
        if isinstance(fn, Stage) and not callable(fn):
            return self._with(fn)
        return self._with(Transduce(fn))

    @overload
    def catch(
        self,
        types: type[E] | tuple[type[E], ...],
        /,
        *,
        where: Callable[[E], object] | None = ...,
        do: Callable[[E], object] | None = ...,
        stop: bool = ...,
    ) -> Flow[T_co]: ...
    @overload
    def catch(
        self,
        types: type[E] | tuple[type[E], ...],
        /,
        *,
        where: Callable[[E], object] | None = ...,
        replace: Callable[[E], R],
        do: Callable[[E], object] | None = ...,
        stop: bool = ...,
    ) -> Flow[T_co | R]: ...
    @overload
    def catch(
        self,
        types: type[E] | tuple[type[E], ...],
        /,
        *,
        where: Callable[[E], object] | None = ...,
        replace: R,
        do: Callable[[E], object] | None = ...,
        stop: bool = ...,
    ) -> Flow[T_co | R]: ...
    def catch(
        self,
        types: Any,
        /,
        *,
        where: Callable[[Any], object] | None = None,
        replace: Any = NOTHING,
        do: Callable[[Any], object] | None = None,
        stop: bool = False,
    ) -> Flow[Any]:
        """What becomes of failures in the stages before it; without it they are raised at the end.

        Args:
            types: an Exception class or a tuple of them.
            where: only failures for which `where(exception)` is true.
            replace: a value, or a function of the exception, that takes the item's place; left out, the
                item is dropped.
            do: called with the exception first (to log or count it). Handlers run on the loop: keep them short.
            stop: end the flow normally at the first such failure.

        Example:
            >>> flow([1, 0]).map(lambda n: 1 // n).catch(ZeroDivisionError, replace=-1).collect()
            [1, -1]
        """
        return self._with(Catch(types, where=where, replace=replace, do=do, stop=stop))

    def to(self, sink: Sink, /) -> Flow[T_co]:
        """Write every item to `sink`; it goes on once it is written. The last stage, one a flow."""
        from overlapped.stages.land import Land

        return self._with(Land(sink))

    def using(self, *, per: Literal["run", "worker"] = "run", **factories: Callable[[], Any]) -> Flow[T_co]:
        """Resources for stage functions that have a parameter of that name beyond the item.

        Each factory is called when a run starts; what it gives is awaited and entered if it can be, handed
        to the functions, and closed when the run ends, the last opened first.

        Args:
            per: "run": one for the run; "worker": plain functions get one for each thread, opened and
                closed there (sqlite3 connections need that).
            factories: name=factory, such as `session=aiohttp.ClientSession`.

        Raises:
            UsageError: a factory is no function, or the name is taken.
        """
        if per not in ("run", "worker"):
            raise UsageError(f'using(per): per must be "run" or "worker", got {per!r}')
        for name, factory in factories.items():
            if not callable(factory):
                raise UsageError(
                    f"using({name}): a function that makes it is needed, got {type(factory).__name__}; "
                    f"write .using({name}=lambda: ...)"
                )
            if name in dict(self._factories):
                raise UsageError(f"using({name}): there is a resource of that name already")
        added = frozenset(factories) if per == "worker" else frozenset()
        return Flow(self._source, self._stages, (*self._factories, *factories.items()), self._per_worker | added)

    # -- looking at it -----------------------------------------------------------------------------------

    def explain(self) -> str:
        """Print the source and each stage with its lane, options and why; returns the text as well."""
        lines = [self._source.explain(), *(stage.explain() for stage in self._stages)]
        lines += [f"using {name}" for name, _ in self._factories]
        text = "\n".join(f"{'' if i == 0 else '  '}{line}" for i, line in enumerate(lines))
        print(text)  # noqa: T201 - that is what it is for
        return text

    def __repr__(self) -> str:
        """The chain, as it was written."""
        return f"flow({self._source.name})" + "".join(f".{stage.verb}({_shown(stage)})" for stage in self._stages)

    @property
    def source_name(self) -> str:
        """What the items come from, in a word."""
        return self._source.name

    @property
    def depth(self) -> int:
        """How many flows of several sources it is made of, one within the other."""
        return self._source.depth if isinstance(self._source, _Several) else 0

    @property
    def has_sink(self) -> bool:
        """True if it ends with `.to(...)`."""
        return bool(self._stages) and self._stages[-1].verb == "to"

    @property
    def factories(self) -> tuple[tuple[str, Callable[[], Any]], ...]:
        """The resources of `using`."""
        return self._factories

    @property
    def per_worker(self) -> frozenset[str]:
        """Those of them that every thread opens for itself."""
        return self._per_worker

    def refuse_sink(self, verb: str) -> None:
        """Refuse a stage after the sink."""
        if self.has_sink:
            raise UsageError(f".{verb}(...) after .to(...): a sink comes last; write .{verb}(...).to(...)")

    def check(self) -> None:
        """Refuse to run with something missing.

        Raises:
            UsageError: a parameter that no resource fills, or an iterator that was used up.
        """
        self._source.check_usable()
        names = frozenset(name for name, _ in self._factories)
        for stage in self._stages:
            missing = stage.missing(names) if isinstance(stage, CallStage) else []
            if missing:
                raise UsageError(
                    f"{stage.verb}({stage.name}): nothing fills {', '.join(missing)}; write "
                    f".using({', '.join(f'{name}=...' for name in missing)}), or give a default"
                )

    def attach(self, scope: Scope, *, is_inner: bool = False) -> Feed:
        """The chain of feeds of one run. For `running`; not part of the public interface."""
        self.check()
        feed = self._source.feed(scope)
        if not is_inner:
            scope.source_items = getattr(self._source, "length", None)
        if scope.on_done is not None and not is_inner:
            from overlapped._engine.lineage import Marked

            feed = Marked(feed, scope.on_done)
        names = frozenset(name for name, _ in self._factories)
        catches = [i for i, stage in enumerate(self._stages) if isinstance(stage, Catch)]
        last_catch = max(catches, default=-1)
        is_caught_outside = is_inner  # the outer flow may have a `catch`; its stages know
        is_batched = False
        for i, stage in enumerate(self._stages):
            is_fatal = not scope.keep and i >= last_catch and not is_caught_outside
            is_marked = feed.marks is not None
            feed = stage.attach(feed, scope, Seat(is_fatal, is_batched, names, self._per_worker))
            if is_marked and feed.marks is None:
                raise UsageError(
                    f"{stage.verb}({stage.name}): it gives other items than it gets, so nobody can tell which item "
                    f"of the source a result comes from; write .map, .flat_map or x = yield y"
                )
            if stage.verb == "batch":
                is_batched = True
            elif stage.verb not in ("filter", "tap", "take", "skip", "catch"):
                is_batched = False
        return feed

    # -- running it ------------------------------------------------------------------------------------

    def __iter__(self) -> Items[T_co]:
        """Start a run on a loop in a thread of its own and iterate over its results."""
        return self.open().__enter__()

    def __aiter__(self) -> AsyncItems[T_co]:
        """Iterate over the results of a new run on the running loop."""
        from overlapped.items import AsyncItems
        from overlapped.running import RunOptions

        self.check()
        return AsyncItems(self, RunOptions())

    def open(self, *, on_failure: OnFailure = "raise", max_failures: int | None = None) -> Scoped[T_co]:
        """A run that is surely closed: `with flow.open() as items` or `async with flow.open() as items`.

        Args:
            on_failure: "raise" the first failure at the end of the flow, or "keep" it for the report.
            max_failures: keep up to so many, then raise `TooManyFailures`.
        """
        from overlapped.items import Scoped
        from overlapped.running import RunOptions

        self.check()
        return Scoped(self, RunOptions(on_failure, max_failures))

    def run(
        self,
        *,
        on_failure: OnFailure = "raise",
        max_failures: int | None = None,
        progress: Callable[[RunRecord], object] | None = None,
        report: str | os.PathLike[str] | None = None,
        trace: str | os.PathLike[str] | None = None,
        dashboard: bool | int = False,
    ) -> Report:
        """Run to the end and throw the results away; returns what was measured.

        Args:
            on_failure: "raise" the first failure, or "keep" failures for the report and go on.
            max_failures: keep up to so many, then raise `TooManyFailures`.
            progress: called on the loop about five times a second with a snapshot, and at the end.
            report: write an HTML page of the run there, however it ends.
            trace: write Chrome trace events there (.json or .json.gz), however it ends.
            dashboard: a live page on 127.0.0.1 while it runs, at this port or, with True, at a free one; the address
                is written to stderr.

        Raises:
            UsageError: called on the loop of a run; use `arun`. Or a file cannot be written where it was wanted, or
                the port is taken.
        """
        from overlapped.bridge import run_here

        return run_here(  # type: ignore[no-any-return]  # what arun returns
            lambda: self.arun(
                on_failure=on_failure,
                max_failures=max_failures,
                progress=progress,
                report=report,
                trace=trace,
                dashboard=dashboard,
            )
        )

    async def arun(
        self,
        *,
        on_failure: OnFailure = "raise",
        max_failures: int | None = None,
        progress: Callable[[RunRecord], object] | None = None,
        report: str | os.PathLike[str] | None = None,
        trace: str | os.PathLike[str] | None = None,
        dashboard: bool | int = False,
    ) -> Report:
        """As `run`, on the running loop."""
        from overlapped.items import AsyncItems
        from overlapped.running import RunOptions

        self.check()
        items: AsyncItems[T_co] = AsyncItems(self, RunOptions(on_failure, max_failures, progress))
        saved = _saved(report, trace, lambda: items.report)
        with _live_page(dashboard, report) as page:
            try:
                with saved:
                    async with items:
                        if page is not None:
                            page.show(lambda: items.report.record)
                        await items.exhaust()
            finally:
                if page is not None:
                    await page.finish()
        return items.report

    def collect(self, *, on_failure: OnFailure = "raise", max_failures: int | None = None) -> list[T_co]:
        """Run to the end and return all results as a list."""
        from overlapped.bridge import run_here

        return run_here(lambda: self.acollect(on_failure=on_failure, max_failures=max_failures))  # type: ignore[no-any-return]  # what acollect returns

    async def acollect(self, *, on_failure: OnFailure = "raise", max_failures: int | None = None) -> list[T_co]:
        """As `collect`, on the running loop."""
        from overlapped.items import AsyncItems
        from overlapped.running import RunOptions

        self.check()
        items: AsyncItems[T_co] = AsyncItems(self, RunOptions(on_failure, max_failures))
        async with items:
            return await items.rest()


def _saved(
    report: str | os.PathLike[str] | None, trace: str | os.PathLike[str] | None, made: Callable[[], Report]
) -> AbstractContextManager[None]:
    """Around a run: the files that are wanted of it; that they can be written is found out now."""
    if report is None and trace is None:
        return nullcontext()
    from overlapped.report import files

    return files.saved(files.saver(report, trace), made)


def _live_page(port: Any, report: str | os.PathLike[str] | None) -> AbstractContextManager[Dashboard | None]:
    """The live page that is wanted of a run; that its port can be had is found out now."""
    if port is False:
        return nullcontext()
    if port is not True and not (isinstance(port, int) and 1 <= port <= 65_535):
        raise UsageError(
            f"run(dashboard): dashboard must be True or a port from 1 to 65535, got {port!r}; "
            "write dashboard=True for a port that is free"
        )
    from overlapped.report.dashboard import Dashboard

    return Dashboard(None if port is True else port, name="run(dashboard)", instead="dashboard=True", report=report)


def _options(verb: str, given: CallOptions) -> Options:
    unknown = [name for name in given if name not in CallOptions.__annotations__]
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], CallOptions.__annotations__, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(CallOptions.__annotations__)}"
        raise UsageError(f"{verb}() has no option {unknown[0]}{hint}")
    return Options(**given)


def _shown(stage: Stage) -> str:
    return (
        stage.name
        if isinstance(stage, CallStage) or stage.verb == "through"
        else stage.name.removeprefix(stage.verb).strip("()")
    )
