"""What users see in their editor: these lines must type-check, with exactly these types (`make check`).

What must be refused stands in `typing_refused.py`; `test_typing.py` runs both type checkers on both.
Nothing here is ever called.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, assert_type

from overlapped import (
    AUTO,
    Controller,
    ControllerSpec,
    Flow,
    Jsonl,
    Overloaded,
    Rate,
    Report,
    Retry,
    RunRecord,
    Sqlite,
    TooManyFailures,
    concat,
    flow,
    merge,
    zip_,
)


class Page:
    """What a fetch gives."""

    url: str


class Session:
    """A resource."""


async def fetch(url: str) -> Page: ...  # type: ignore[empty-body]  # only its types are used, as below
def parse(page: Page) -> dict[str, int]: ...  # type: ignore[empty-body]
async def save(batch: list[dict[str, int]]) -> int: ...  # type: ignore[empty-body]
def links(page: Page) -> list[str]: ...  # type: ignore[empty-body]
async def alinks(page: Page) -> list[str]: ...  # type: ignore[empty-body]
def walk(page: Page) -> Iterator[str]: ...  # type: ignore[empty-body]
def generate(page: Page) -> Generator[str, None, None]:
    yield page.url


async def agenerate(page: Page) -> AsyncIterator[str]:
    yield page.url


def add(a: int, b: int) -> int:
    return a + b


def numbers() -> Iterator[int]:
    yield 1


async def anumbers() -> AsyncIterator[int]:
    yield 1


async def load() -> list[int]: ...  # type: ignore[empty-body]


class Parser:
    """A callable object, and methods."""

    def __call__(self, page: Page) -> bytes: ...  # type: ignore[empty-body]
    async def aparse(self, page: Page) -> float: ...  # type: ignore[empty-body]


urls: list[str] = []
pages = flow(urls).map(fetch)


def sources() -> None:
    assert_type(flow([1]), Flow[int])
    assert_type(flow(range(3)), Flow[int])
    assert_type(flow({"a": 1}), Flow[str])
    assert_type(flow({"a": 1}.items()), Flow[tuple[str, int]])
    assert_type(flow(numbers()), Flow[int])
    assert_type(flow(numbers), Flow[int])
    assert_type(flow(anumbers()), Flow[int])
    assert_type(flow(anumbers), Flow[int])
    assert_type(flow(load), Flow[int])
    assert_type(flow(lambda: [1]), Flow[int])
    assert_type(flow(partial(range, 3)), Flow[int])
    assert_type(flow(flow([1])), Flow[int])
    with open("lines") as lines:
        assert_type(flow(lines), Flow[str])


def the_line_of_the_readme() -> None:
    assert_type(flow(urls).map(fetch).map(parse).batch().map(save), Flow[int])


def maps(base: int, either: Callable[[Page], int], anything: Any) -> None:
    assert_type(pages, Flow[Page])
    assert_type(pages.map(parse), Flow[dict[str, int]])
    assert_type(pages.map(lambda page: page.url), Flow[str])
    assert_type(pages.map(lambda page: page.url).map(len), Flow[int])
    assert_type(pages.map(Parser()), Flow[bytes])
    assert_type(pages.map(Parser().aparse), Flow[float])
    assert_type(pages.map(either), Flow[int])
    assert_type(pages.map(anything), Flow[Any])
    assert_type(flow(urls).map(int), Flow[int])
    assert_type(flow(urls).map(str.strip), Flow[str])
    assert_type(flow([1]).map(partial(add, base)), Flow[int])
    # mypy cannot choose an overload by what a lambda returns if that is awaitable: it says Flow[Any].
    fetched: Flow[Page] = flow(urls).map(lambda url: fetch(url))
    print(fetched)


def maps_with_resources() -> None:
    async def fetch_with(url: str, session: Session) -> Page: ...  # type: ignore[empty-body]
    def look_up(url: str, db: sqlite3.Connection, *, limit: int = 1) -> list[str]: ...  # type: ignore[empty-body]

    assert_type(flow(urls).map(fetch_with).using(session=Session), Flow[Page])
    assert_type(flow(urls).map(look_up).using(per="worker", db=lambda: sqlite3.connect("x")), Flow[list[str]])
    assert_type(flow(urls).flat_map(look_up), Flow[str])
    assert_type(flow(urls).filter(look_up), Flow[str])
    assert_type(flow(urls).tap(fetch_with), Flow[str])


def options(spec: ControllerSpec) -> None:
    pages.map(parse, concurrency=5, ordered=False, on="thread", timeout_s=1, name="parse")
    pages.map(parse, concurrency=AUTO, on=AUTO)
    pages.map(parse, concurrency=AUTO(max=3))
    pages.map(parse, concurrency=spec, on="inline")
    pages.map(parse, concurrency=AUTO, on="process")
    pages.map(fetch_page, retry=Retry(attempts=3, exceptions=(OSError, Overloaded)), rate=Rate(5, per_s=1))
    pages.map(fetch_page, retry=None, timeout_s=None, rate=None, name=None, on="coroutine")
    pages.map(fetch_page, key=lambda page: page.url, per_key=2)
    pages.filter(fetch_page, key=hash, per_key=Rate(1))
    pages.flat_map(links, concurrency=2)
    pages.tap(print, ordered=False)


async def fetch_page(page: Page) -> Page: ...  # type: ignore[empty-body]


def flat_maps() -> None:
    assert_type(pages.flat_map(links), Flow[str])
    assert_type(pages.flat_map(alinks), Flow[str])
    assert_type(pages.flat_map(walk), Flow[str])
    assert_type(pages.flat_map(generate), Flow[str])
    assert_type(pages.flat_map(agenerate), Flow[str])
    assert_type(pages.flat_map(lambda page: [page.url]), Flow[str])
    assert_type(pages.flat_map(lambda page: (page.url, page.url)), Flow[str])


def selections() -> None:
    assert_type(pages.filter(lambda page: page.url), Flow[Page])
    assert_type(pages.filter(fetch_page), Flow[Page])
    assert_type(pages.filter(bool), Flow[Page])
    assert_type(pages.tap(print), Flow[Page])
    assert_type(pages.take(1).skip(2), Flow[Page])


def batches() -> None:
    assert_type(pages.batch(), Flow[list[Page]])
    assert_type(pages.batch(10, linger_s=1), Flow[list[Page]])
    assert_type(pages.batch(AUTO), Flow[list[Page]])
    assert_type(pages.batch().flatten(), Flow[Page])
    assert_type(pages.map(links).flatten(), Flow[str])
    assert_type(flow([(1, 2)]).flatten(), Flow[int])
    assert_type(flow([{1: "a"}]).flatten(), Flow[int])
    assert_type(flow(["text"]).map(walk_text).flatten(), Flow[str])


def walk_text(text: str) -> Generator[str]:
    yield text


def throughs() -> None:
    def pairs(items: Iterator[Page]) -> Iterator[tuple[Page, Page]]:
        for item in items:
            yield item, item

    def any_items(items: Iterable[Page]) -> Iterator[str]:
        for item in items:
            yield item.url

    async def apairs(items: AsyncIterator[Page]) -> AsyncIterator[bytes]:
        async for item in items:
            yield item.url.encode()

    def count() -> Generator[int, Page, None]:
        n = 0
        while True:
            yield n
            n += 1

    def windows(size: int, items: Iterator[Page]) -> Iterator[list[Page]]:
        yield list(items)[:size]

    assert_type(pages.through(pairs), Flow[tuple[Page, Page]])
    assert_type(pages.through(any_items), Flow[str])
    assert_type(pages.through(apairs), Flow[bytes])
    assert_type(pages.through(count), Flow[int])
    assert_type(pages.through(partial(windows, 3)), Flow[list[Page]])


def catches() -> None:
    assert_type(pages.catch(OSError), Flow[Page])
    assert_type(pages.catch((OSError, ValueError), do=print, stop=True), Flow[Page])
    assert_type(pages.catch(OSError, replace=None), Flow[Page | None])
    assert_type(pages.catch(OSError, replace=0), Flow[Page | int])
    assert_type(pages.catch(OSError, replace=status), Flow[Page | int])
    assert_type(pages.catch(Overloaded, where=lambda error: error.retry_after_s is None), Flow[Page])
    assert_type(flow([1]).catch(ValueError, replace=repr), Flow[int | str])
    # Again, mypy says Flow[Any] for lambdas.
    number: Flow[Page | int | None] = pages.catch(OSError, replace=lambda error: error.errno)
    print(number)


def status(error: OSError) -> int:
    return error.errno or 0


def sinks() -> None:
    rows = pages.map(parse)
    assert_type(rows.to(Jsonl("out.jsonl")), Flow[dict[str, int]])
    assert_type(rows.to(Sqlite("out.db", table="pages")), Flow[dict[str, int]])
    assert_type(rows.to(Jsonl("out.jsonl")).run(), Report)


def resources() -> None:
    @contextlib.asynccontextmanager
    async def session() -> AsyncIterator[Session]:
        yield Session()

    async def connect() -> Session: ...  # type: ignore[empty-body]

    assert_type(pages.using(a=Session, b=session, c=connect, d=lambda: 1), Flow[Page])
    assert_type(pages.using(per="run", a=Session), Flow[Page])


def running() -> None:
    assert_type(pages.collect(), list[Page])
    assert_type(pages.collect(on_failure="keep", max_failures=3), list[Page])
    assert_type(pages.run(), Report)
    assert_type(pages.run(progress=lambda record: print(record.items)), Report)
    assert_type(pages.run().record, RunRecord)
    assert_type(pages.explain(), str)
    assert_type(list(pages), list[Page])
    assert_type(next(iter(pages)), Page)
    for page in pages:
        assert_type(page, Page)
    with pages.open(on_failure="keep") as items:
        assert_type(items.stats(), RunRecord)
        assert_type(items.report, Report)
        items.drain()
        for page in items:
            assert_type(page, Page)


async def arunning() -> None:
    assert_type(await pages.acollect(), list[Page])
    assert_type(await pages.arun(), Report)
    async for page in pages:
        assert_type(page, Page)
    assert_type([page.url async for page in pages], list[str])
    async with pages.open(max_failures=1) as items:
        assert_type(items.stats(), RunRecord)
        assert_type(items.report, Report)
        items.drain()
        async for page in items:
            assert_type(page, Page)
        assert_type(await anext(items), Page)
        await items.aclose()


def several() -> None:
    assert_type(merge([1], flow([2]), numbers), Flow[int])
    assert_type(merge(numbers(), anumbers()), Flow[int])
    assert_type(concat([1], range(3)), Flow[int])
    assert_type(concat(pages, pages.take(1)), Flow[Page])
    assert_type(zip_([1]), Flow[tuple[int]])
    assert_type(zip_([1], ["a"]), Flow[tuple[int, str]])
    assert_type(zip_(numbers, anumbers(), pages), Flow[tuple[int, int, Page]])
    assert_type(zip_([1], [1.5], ["a"], [b"a"]), Flow[tuple[int, float, str, bytes]])
    assert_type(merge([1], [2]).map(str), Flow[str])


def variance() -> None:
    flags: Flow[bool] = flow([True])
    wider: Flow[int] = flags  # a Flow is read only
    whole: Iterable[object] = wider
    print(whole)


def own_controller() -> None:
    class Half:
        """A controller of one's own."""

        limit = 1
        reason = "half"

        def finished(self, sample: object) -> int:
            return self.limit

    class HalfSpec:
        """Makes it."""

        def controller(self) -> Half:
            return Half()

    controller: Controller = Half()
    pages.map(parse, concurrency=HalfSpec())
    print(controller)


def errors() -> None:
    try:
        pages.run(max_failures=0)
    except TooManyFailures as error:
        assert_type(error.failures, tuple[BaseException, ...])
        print(error.report)  # every error that ends a run has it
    print(Overloaded("busy", retry_after_s=5).retry_after_s)
