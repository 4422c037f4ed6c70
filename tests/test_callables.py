"""What the kinds of functions promise: told when the flow is written, refused with the line to write."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import sys
import types
import warnings
from unittest.mock import AsyncMock, MagicMock

import pytest

from overlapped._engine.callables import (
    describe,
    describe_generator,
    is_awaitable,
    is_generator,
    refuse_result,
)
from overlapped.errors import UsageError


def plain(x):
    return x


async def coro(x):
    return x


def gen(x):
    yield x


async def agen(x):
    yield x


@types.coroutine
def legacy(x):
    yield
    return x


class Methods:
    def plain(self, x):
        return x

    async def coro(self, x):
        return x

    def gen(self, x):
        yield x

    @classmethod
    async def cls_coro(cls, x):
        return x

    @staticmethod
    async def static_coro(x):
        return x


class PlainCall:
    def __call__(self, x):
        return x


class AsyncCall:
    async def __call__(self, x):
        return x


class GenCall:
    def __call__(self, x):
        yield x


class AsyncGenCall:
    async def __call__(self, x):
        yield x


class Awaited:
    def __init__(self, x):
        self.x = x

    def __await__(self):
        yield
        return self.x


class Point:
    def __init__(self, x):
        self.x = x


def wrapped_async(fn):
    @functools.wraps(fn)
    async def wrapper(*args, **kwargs):
        return await fn(*args, **kwargs)

    return wrapper


def wrapped_sync(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


class EveryAttribute:
    """As an XML-RPC proxy: any attribute exists and is callable."""

    def __getattr__(self, name):
        return EveryAttribute()

    def __call__(self, x):
        return x


class AsyncCache:
    """The shape of async_lru.alru_cache."""

    def __init__(self, fn):
        self.__wrapped__ = fn

    def cache_info(self):
        return None

    async def __call__(self, x):
        return await self.__wrapped__(x)


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (plain, "plain"),
        (coro, "coroutine"),
        (legacy, "coroutine"),
        (lambda x: x, "plain"),
        (Methods().plain, "plain"),
        (Methods().coro, "coroutine"),
        (Methods.cls_coro, "coroutine"),
        (Methods.static_coro, "coroutine"),
        (Methods.__dict__["static_coro"], "coroutine"),
        (functools.partial(coro), "coroutine"),
        (functools.partial(functools.partial(coro)), "coroutine"),
        (functools.partial(Methods().coro), "coroutine"),
        (functools.partial(AsyncCall()), "coroutine"),
        (functools.partial(functools.partial(AsyncCall())), "coroutine"),
        (AsyncCall(), "coroutine"),
        (AsyncCall().__call__, "coroutine"),
        (PlainCall(), "plain"),
        (Awaited, "coroutine"),
        (functools.partial(Awaited), "coroutine"),
        (Point, "plain"),
        (int, "plain"),
        (len, "plain"),
        (str.upper, "plain"),
        (operator.itemgetter(0), "plain"),
        (wrapped_async(coro), "coroutine"),
        (wrapped_async(plain), "coroutine"),
        (wrapped_sync(coro), "plain"),
        (functools.lru_cache(plain), "plain"),
        (functools.singledispatch(plain), "plain"),
        (AsyncMock(), "coroutine"),
        (MagicMock(), "plain"),
        (EveryAttribute(), "plain"),
        (AsyncCache(coro), "coroutine"),
    ],
)
def test_every_kind_of_function_is_told_before_it_is_called(fn, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe(fn, "map").kind == kind


@pytest.mark.parametrize(
    ("fn", "kind"),
    [
        (gen, "generator"),
        (agen, "async_generator"),
        (Methods().gen, "generator"),
        (functools.partial(gen), "generator"),
        (GenCall(), "generator"),
        (functools.partial(AsyncGenCall()), "async_generator"),
        (plain, "plain"),
        (coro, "coroutine"),
    ],
)
def test_flat_map_takes_every_kind(fn, kind):
    assert describe(fn, "flat_map").kind == kind


def test_tornado_coroutines_are_told_without_importing_tornado():
    pytest.importorskip("tornado")
    from tornado import gen as tornado_gen

    class Client:
        @tornado_gen.coroutine
        def fetch(self, x):
            yield None

    @tornado_gen.coroutine
    def fetch(x):
        yield None

    for fn in (fetch, Client().fetch, functools.partial(fetch)):
        assert describe(fn, "map").kind == "tornado"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="inspect.markcoroutinefunction came with 3.12")
def test_marked_coroutine_functions_are_coroutine_functions():
    mark = getattr(inspect, "markcoroutinefunction")  # noqa: B009 - not there on 3.11
    assert describe(mark(lambda x: coro(x)), "map").kind == "coroutine"


def test_a_function_is_described_by_its_name_and_place():
    line = plain.__code__.co_firstlineno
    assert describe(plain, "map").name == "plain"
    assert describe(plain, "map").where == f"test_callables.py:{line}"
    assert describe(functools.partial(plain), "map").name == "plain"
    assert describe(Methods().coro, "map").name == "coro"
    assert describe(AsyncCall(), "map").name == "AsyncCall"
    assert describe(AsyncCall(), "map").where.startswith("test_callables.py:")
    assert describe(Point, "map").name == "Point"
    assert describe(len, "map") == describe(len, "map")
    assert (describe(len, "map").name, describe(len, "map").where) == ("len", "")
    assert describe(AsyncMock(), "map").name == "AsyncMock"
    shout = lambda x: x
    assert describe(shout, "map").name == f"lambda test_callables.py:{shout.__code__.co_firstlineno}"


def test_a_decorated_function_is_placed_where_the_user_wrote_it():
    described = describe(wrapped_sync(plain), "map")
    assert (described.name, described.where) == (
        "plain",
        f"test_callables.py:{plain.__code__.co_firstlineno}",
    )


def test_parameters_beyond_the_item_are_candidates_for_resources():
    def fetch(url, session, limit=3, *rest, proxy, retries=2, **options):
        return url

    described = describe(fetch, "map")
    assert described.wants == ("session", "limit", "proxy", "retries")
    assert described.required == ("session", "proxy")
    assert described.accepts_any


def test_bound_arguments_are_no_candidates():
    def fetch(session, url, limit=3):
        return url

    class Client:
        def get(self, url, session):
            return url

        async def __call__(self, url, *, session):
            return url

    assert describe(functools.partial(fetch, "s"), "map").wants == ("limit",)
    assert describe(functools.partial(fetch, limit=1), "map").required == ("url",)
    assert describe(Client().get, "map").wants == ("session",)
    assert describe(Client(), "map").wants == ("session",)


def test_positional_only_parameters_can_never_be_filled_by_name():
    def fetch(url, session, /):
        return url

    described = describe(fetch, "map")
    assert (described.wants, described.required) == ((), ("session",))


def test_a_callable_without_signature_wants_nothing():
    described = describe(operator.itemgetter(1), "map")
    assert (described.wants, described.required) == ((), ())
    assert describe(lambda *args, session: args, "map").wants == ("session",)


@pytest.mark.parametrize("verb", ["map", "filter", "tap"])
@pytest.mark.parametrize("fn", [gen, functools.partial(gen), Methods().gen, GenCall()])
def test_a_generator_function_is_refused_where_one_result_is_meant(verb, fn):
    with pytest.raises(UsageError, match=rf"^{verb}\(\w+\): \w+ is a generator function; write .flat_map"):
        describe(fn, verb)


def test_the_message_shows_the_line_to_write():
    with pytest.raises(UsageError) as caught:
        describe(agen, "map")
    assert str(caught.value) == (
        "map(agen): agen is an async generator function; write .flat_map(agen) (many results an "
        "item) or .through(agen) (one generator over all items)"
    )


def test_a_coroutine_object_is_refused_and_closed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = coro(1)
        with pytest.raises(UsageError, match=r"write \.map\(coro\)$"):
            describe(value, "map")
        assert inspect.getcoroutinestate(value) == inspect.CORO_CLOSED
        with pytest.raises(UsageError, match=r"write \.map\(legacy\)$"):
            describe(legacy(1), "map")


def test_a_running_coroutine_is_refused_but_left_alone():
    class Once:
        def __await__(self):
            yield

    async def waits():
        await Once()

    value = waits()
    value.send(None)
    with pytest.raises(UsageError):
        describe(value, "map")
    assert inspect.getcoroutinestate(value) == inspect.CORO_SUSPENDED
    value.close()


def test_a_future_is_refused():
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(UsageError, match=r"map\(\w*Future\): an awaitable was given.*write \.map\(fn\)"):
            describe(loop.create_future(), "map")
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("value", "verb", "message"),
    [
        (None, "map", r"map\(None\): None is not a function; write \.map\(fn\)"),
        ("fetch", "map", r"map\('fetch'\): a str is not a function; write \.map\(fetch\)"),
        ("a b", "filter", r"filter\('a b'\): a str is not a function; write \.filter\(fn\)"),
        (3, "tap", r"tap\(int\): an object of type int is not a function"),
        ([plain], "map", r"map\(list\): an object of type list is not a function"),
        (None, "key", r"key\(None\): None is not a function; write key=fn"),
        (gen(1), "map", r"map\(gen\(\.\.\.\)\): a generator object .* write \.flat_map\(gen\)"),
        (agen(1), "flat_map", r"flat_map\(agen\(\.\.\.\)\): .* write \.flat_map\(agen\)"),
    ],
)
def test_what_is_no_function_is_refused_with_the_line_to_write(value, verb, message):
    with pytest.raises(UsageError, match=message):
        describe(value, verb)


@pytest.mark.parametrize("fn", [lambda: 1, lambda *, x: x])
def test_a_function_that_cannot_take_the_item_is_refused(fn):
    with pytest.raises(UsageError, match=r"takes no positional argument.* write def fn\(item\)"):
        describe(fn, "map")


def test_a_coroutine_function_that_cannot_take_the_item_is_shown_as_async():
    async def tick():
        return 1

    with pytest.raises(UsageError, match=r"write async def tick\(item\): \.\.\.$"):
        describe(tick, "map")
    with pytest.raises(UsageError):
        describe(functools.partial(plain, x=1), "map")


@pytest.mark.parametrize("wrap", [functools.lru_cache, functools.cache, functools.lru_cache(maxsize=5)])
def test_a_cached_coroutine_function_is_refused(wrap):
    with pytest.raises(UsageError, match="awaited only once; write .map.coro.__wrapped__"):
        describe(wrap(coro), "map")
    with pytest.raises(UsageError, match="awaited only once"):
        describe(functools.partial(wrap(coro)), "map")
    with pytest.raises(UsageError, match="used only once"):
        describe(wrap(gen), "flat_map")


def running_total(start=0):
    total = start
    while True:
        total += yield total


def two(items, separator):
    yield from items


def keyword(items, *, separator):
    yield from items


async def async_nothing():
    yield 1


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (running_total, "transducer"),
        (functools.partial(running_total, 5), "transducer"),
        (gen, "producer"),
        (functools.partial(two, separator=","), "producer"),
        (functools.partial(keyword, separator=","), "producer"),
        (agen, "async_producer"),
        (GenCall(), "producer"),
        (AsyncGenCall(), "async_producer"),
    ],
)
def test_through_tells_transducers_from_producers(fn, shape):
    assert describe_generator(fn) == shape


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (plain, r"write \.map\(plain\)"),
        (coro, r"through\(coro\): coro is a coroutine function; write \.map\(coro\)"),
        (gen(1), r"write \.through\(gen\)"),
        (async_nothing, r"write async def async_nothing\(items\)"),
        (two, r"the parameters separator of two; write \.through\(functools\.partial\(two, separator="),
        (keyword, r"functools\.partial\(keyword, separator="),
        (functools.cache(gen), "used only once"),
        (None, r"through\(None\)"),
    ],
)
def test_through_refuses_what_it_cannot_drive(fn, message):
    with pytest.raises(UsageError, match=message):
        describe_generator(fn)


def test_awaitables_and_generators_are_told_apart():
    legacy_object, coro_object = legacy(1), coro(1)
    assert is_awaitable(legacy_object)
    assert not is_generator(legacy_object)
    assert is_awaitable(coro_object)
    assert is_awaitable(Awaited(1))
    coro_object.close()
    values: list[object] = [1, None, "x", [], gen(1), Point(1), range(3), iter([])]
    for value in values:
        assert not is_awaitable(value)
    assert is_generator(gen(1))
    assert is_generator(agen(1))
    assert not is_generator(iter([]))


def test_a_plain_function_that_returns_a_coroutine_is_refused_where_nothing_awaits_it():
    described = describe(lambda x: coro(x), "map")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = coro(1)
        assert refuse_result(value, described, "coroutine") is None
        for lane in ("thread", "inline"):
            error = refuse_result(value, described, lane)
            assert error is not None
            assert f"in the {lane} lane" in str(error)
            assert 'on="coroutine"' in str(error)
        assert inspect.getcoroutinestate(value) == inspect.CORO_CLOSED


def test_a_plain_function_that_returns_a_generator_is_refused_by_map_only():
    described = describe(plain, "map")
    error = refuse_result(gen(1), described, "thread")
    assert error is not None
    assert "write .flat_map(plain)" in str(error)
    assert refuse_result(gen(1), described, "thread", verb="flat_map") is None
    assert refuse_result(5, described, "thread") is None
