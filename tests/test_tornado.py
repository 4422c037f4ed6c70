"""Tornado in a flow: its HTTP client's own limit is told of; a loop run inside of the flow's names what to write."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from overlapped._engine import foreign
from overlapped.compare.server import page, running_server, urls
from tests.rules.kit import WAYS, flow, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

gen = pytest.importorskip("tornado.gen")
httpclient = pytest.importorskip("tornado.httpclient")
ioloop = pytest.importorskip("tornado.ioloop")


# -- max_clients ------------------------------------------------------------------------------------------


@pytest.fixture
def slow_url() -> Iterator[str]:
    """A page that comes after 0.2 s."""
    with running_server() as port:
        (url,) = urls(port, 1, 0.2)
        yield url


async def fetch(url: str) -> bytes:
    return bytes((await httpclient.AsyncHTTPClient().fetch(url)).body)


@gen.coroutine
def fetch_by_generator(url: str) -> Any:
    answer = yield httpclient.AsyncHTTPClient().fetch(url)
    return bytes(answer.body)


async def fetch_by_resource(url: str, client: Any) -> bytes:
    return bytes((await client.fetch(url)).body)


@pytest.mark.slow
@pytest.mark.parametrize("fn", [fetch, fetch_by_generator])
def test_calls_that_wait_inside_of_tornados_client_are_told_of_with_the_line_to_write(slow_url, fn):
    with pytest.warns(RuntimeWarning, match=r"at most max_clients=10 .* of \d+ calls in flight, \d+ only wait") as told:
        assert flow([slow_url] * 60).map(fn, concurrency=25).collect() == [page(0)] * 60
    (warning,) = told  # once
    assert "AsyncHTTPClient.configure(None, max_clients=1000)" in str(warning.message)
    assert str(warning.message).startswith(f"{fn.__name__}: ")


@pytest.mark.slow
def test_a_client_among_the_resources_is_looked_at_too(slow_url):
    chain = flow([slow_url] * 20).using(client=lambda: httpclient.AsyncHTTPClient(force_instance=True, max_clients=3))
    with pytest.warns(RuntimeWarning, match="at most max_clients=3 "):
        assert chain.map(fetch_by_resource, concurrency=6).collect() == [page(0)] * 20


@pytest.mark.slow
def test_a_client_with_room_for_all_calls_is_no_news(slow_url):
    chain = flow([slow_url] * 40).using(client=lambda: httpclient.AsyncHTTPClient(force_instance=True, max_clients=20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chain.map(fetch_by_resource, concurrency=20).collect() == [page(0)] * 40
        assert flow([slow_url] * 30).map(fetch, concurrency=10).collect() == [page(0)] * 30


def test_of_the_client_on_curl_its_handles_and_its_queue_are_counted():
    class OnCurl:
        _curls = [object()] * 10
        _requests = [object()] * 7

    assert foreign._fullness(OnCurl()) == (10, 7)


# -- loops inside of the loop -----------------------------------------------------------------------------


@gen.coroutine
def waits() -> Any:
    yield gen.sleep(0.01)
    return 5


async def runs_tornados_loop(n: int) -> Any:
    if n == 3:
        return ioloop.IOLoop.current().run_sync(waits)
    await asyncio.sleep(0.01)
    return n


async def runs_asyncios_loop(n: int) -> Any:
    work = asyncio.sleep(0.01, n)
    try:
        return asyncio.run(work) if n == 3 else await work
    finally:
        work.close()


async def runs_this_loop(n: int) -> Any:
    if n == 3:
        return asyncio.get_running_loop().run_until_complete(asyncio.get_running_loop().create_future())
    return n


NESTED = [runs_tornados_loop, runs_asyncios_loop, runs_this_loop]


@pytest.mark.parametrize("fn", NESTED)
def test_a_loop_run_inside_of_the_flows_loop_is_named_with_what_to_write(fn, loop_errors):
    with flow(range(10)).map(fn, concurrency=2).open() as items, pytest.raises(RuntimeError) as raised:
        list(items)
    loop_errors.clear()  # a future that nobody waits for any more
    (note,) = [note for note in raised.value.__notes__ if "await" in note]
    assert note.startswith(f"overlapped: {fn.__name__} runs a loop")
    assert "async def and await" in note


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fn", NESTED)
def test_the_other_items_are_none_the_worse_for_it(fn, way, loop_errors):
    """What Tornado had scheduled stops the loop that it was called in; a loop of ours goes on."""
    if way == "async for":  # the loop is asyncio.run's
        report = flow(range(10)).map(fn, concurrency=2).run(on_failure="keep")
        assert (report.items, report.failed) == (9, 1)
        return
    with flow(range(10)).map(fn, concurrency=2).open(on_failure="keep") as items:
        assert list(items) == [n for n in range(10) if n != 3]
    loop_errors.clear()


def test_a_stopped_loop_goes_on():
    async def stops(n: int) -> int:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        return n

    assert flow(range(5)).map(stops, concurrency=2).collect() == [0, 1, 2, 3, 4]
    assert list(flow(range(5)).map(stops, concurrency=2)) == [0, 1, 2, 3, 4]


def test_in_a_thread_a_loop_may_be_run():
    def fn(n: int) -> Any:
        loop = ioloop.IOLoop(make_current=False)
        try:
            return loop.run_sync(waits)
        finally:
            loop.close()

    values, error = outcome(flow(range(3)).map(fn, on="thread"), "for")
    assert (values, error) == ([5, 5, 5], None)
