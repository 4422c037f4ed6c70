# mypy: ignore-errors
"""What type checkers must refuse: mypy with the code, basedpyright with the rule that a comment names.

`test_typing.py` checks both ways: every marked line is refused with that code, and no other line is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator

from overlapped import AUTO, Flow, Rate, Retry, concat, flow, merge, zip_


class Page:
    """What a fetch gives."""

    url: str


async def fetch(url: str) -> Page:
    raise NotImplementedError


def parse(page: Page) -> dict[str, int]:
    raise NotImplementedError


def count(page: Page) -> int:
    raise NotImplementedError


async def save(batch: list[dict[str, int]]) -> int:
    raise NotImplementedError


def needs_arguments(path: str) -> Iterator[int]:
    raise NotImplementedError


urls: list[str] = []
pages = flow(urls).map(fetch)

# a wrong order of stages
flow(urls).map(parse)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.map(fetch)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.map(parse).map(save)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.map(parse).batch().batch().map(save)  # expect-error: arg-type | reportArgumentType, reportCallIssue
flow(urls).filter(parse)  # expect-error: arg-type | reportArgumentType, reportCallIssue
flow(urls).tap(parse)  # expect-error: arg-type | reportArgumentType, reportCallIssue
flow([1]).flat_map(len)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.flat_map(count)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.map(lambda page: page.no_such)  # expect-error: attr-defined | reportAttributeAccessIssue

# not iterable, not a function
flow(1)  # expect-error: call-overload | reportArgumentType, reportCallIssue
flow(None)  # expect-error: call-overload | reportArgumentType, reportCallIssue
flow(needs_arguments)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.map(1)  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.filter("name")  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.flat_map(lambda page: 1)  # expect-error: arg-type, return-value | reportArgumentType, reportCallIssue
flow([1]).flatten()  # expect-error: misc | reportAttributeAccessIssue
merge(1)  # expect-error: arg-type | reportArgumentType
concat([1], 1)  # expect-error: arg-type | reportArgumentType
zip_([1], 1)  # expect-error: call-overload | reportArgumentType, reportCallIssue

# options
pages.map(parse, ordred=True)  # expect-error: call-overload | reportCallIssue
pages.map(parse, concurrency="5")  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, concurrency=2.5)  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, on="threads")  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, retry=3)  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, rate=5)  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, timeout_s="1")  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, ordered="no")  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.filter(bool, name=1)  # expect-error: call-overload | reportArgumentType, reportCallIssue
pages.map(parse, 5)  # expect-error: call-overload | reportCallIssue
pages.take("3")  # expect-error: arg-type | reportArgumentType
pages.take(n=3)  # expect-error: call-arg | reportCallIssue
pages.batch(2.5)  # expect-error: arg-type | reportArgumentType
pages.batch(linger_s="1")  # expect-error: arg-type | reportArgumentType
pages.batch(10, 1)  # expect-error: call-arg | reportCallIssue
Retry(attempts="3")  # expect-error: arg-type | reportArgumentType
Retry(exceptions=[OSError])  # expect-error: arg-type | reportArgumentType
Retry(exceptions=KeyboardInterrupt)  # expect-error: arg-type | reportArgumentType
Rate("5/s")  # expect-error: arg-type | reportArgumentType
Rate(5, 1)  # expect-error: call-arg | reportCallIssue
AUTO(most=3)  # expect-error: call-arg | reportCallIssue


# through
def of_numbers(items: Iterator[int]) -> Iterator[int]:
    raise NotImplementedError


def sent_numbers() -> Generator[int, int, None]:
    raise NotImplementedError


async def aof_numbers(items: AsyncIterator[int]) -> AsyncIterator[int]:
    yield 1


pages.through(of_numbers)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.through(sent_numbers)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.through(aof_numbers)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.through(parse)  # expect-error: arg-type | reportArgumentType, reportCallIssue
pages.through(1)  # expect-error: call-overload | reportArgumentType, reportCallIssue

# catch, to, using
pages.catch(ValueError("x"))  # expect-error: call-overload | reportArgumentType
pages.catch(KeyboardInterrupt)  # expect-error: type-var | reportArgumentType
pages.catch(OSError, where=1)  # expect-error: call-overload | reportArgumentType
pages.catch(OSError, where=lambda error: error.no_such)  # expect-error: attr-defined | reportAttributeAccessIssue
pages.catch(OSError, instead=1)  # expect-error: call-overload | reportCallIssue
pages.to("out.jsonl")  # expect-error: arg-type | reportArgumentType
pages.using(session=1)  # expect-error: arg-type | reportArgumentType
pages.using(parse)  # expect-error: arg-type, call-arg | reportCallIssue
pages.using(per="thread", a=dict)  # expect-error: arg-type | reportArgumentType

# running
pages.run(on_failure="ignore")  # expect-error: arg-type | reportArgumentType
pages.run("keep")  # expect-error: call-arg | reportCallIssue
pages.collect(progress=print)  # expect-error: call-arg | reportCallIssue
pages.run(progress=1)  # expect-error: arg-type | reportArgumentType
total: int = pages.collect()  # expect-error: assignment | reportAssignmentType
narrower: Flow[bool] = flow([1])  # expect-error: list-item | reportAssignmentType
for page in pages:
    print(page.no_such)  # expect-error: attr-defined | reportAttributeAccessIssue
with pages.open() as items:
    items.close_now()  # expect-error: attr-defined | reportAttributeAccessIssue


async def wrong_way_round() -> None:
    with pages.open() as items:
        async for _ in items:  # expect-error: attr-defined | reportGeneralTypeIssues
            pass
    async with pages.open() as aitems:
        for _ in aitems:  # expect-error: attr-defined | reportGeneralTypeIssues
            pass
    pages.acollect()  # expect-error: unused-coroutine | reportUnusedCoroutine
