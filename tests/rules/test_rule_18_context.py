"""Rule 18: a run copies the caller's context: context variables are seen by everything it runs."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from tests.rules.kit import flow, in_lane, outcome

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


@pytest.fixture(autouse=True)
def _fresh():
    token = user.set("nobody")
    yield
    user.reset(token)


def seen(n):
    return user.get()


def test_calls_see_the_callers_context_variables(lane, way, ordered):
    user.set("ada")
    values, error = outcome(flow(range(20)).map(in_lane(lane, seen), on=lane, ordered=ordered, concurrency=3), way)
    assert (values, error) == (["ada"] * 20, None)


def test_sources_see_them(way):
    def source():
        yield user.get()

    async def asource():
        yield user.get()

    user.set("ada")
    for each in (source, source(), asource, asource(), lambda: [user.get()]):
        assert outcome(flow(each), way) == (["ada"], None)


def test_generators_see_them(way):
    def producer(items):
        for _ in items:
            yield user.get()

    async def aproducer(items):
        async for _ in items:
            yield user.get()

    def transducer():
        while True:
            yield user.get()

    user.set("ada")
    for each in (producer, aproducer, transducer):
        assert outcome(flow([1, 2]).through(each), way) == (["ada", "ada"], None)


def test_key_functions_handlers_and_resources_see_them(way):
    names: list[str] = []

    def note(*_):
        names.append(user.get())
        return 1

    def fails(n, it):
        raise ValueError(n)

    user.set("ada")
    chain = (
        flow([1]).map(fails, key=note, per_key=1).using(it=note).catch(ValueError, where=note, do=note, replace=note)
    )
    assert outcome(chain, way) == ([1], None)
    assert set(names) == {"ada"}
    assert len(names) == 5


def test_the_run_keeps_the_context_it_started_with(lane):
    user.set("ada")
    with flow(range(100)).map(in_lane(lane, seen), on=lane, concurrency=1).open() as items:
        assert next(items) == "ada"
        user.set("grace")
        assert set(items) == {"ada"}


def test_what_a_run_pulls_and_calls_sees_the_context_of_its_start_not_that_of_who_takes_from_it(lane):
    asyncio.run(_taken_in_another_context(lane))


async def _taken_in_another_context(lane):
    def source():
        yield user.get()

    async def asource():
        yield user.get()

    def is_seen(name):
        seen_by_filter.append(user.get())
        return True

    async def twice(n):
        yield n

    for each in (source, asource, source(), asource(), lambda: iter([user.get()])):
        seen_by_filter: list[str] = []
        user.set("ada")
        chain = flow(each).map(in_lane(lane, lambda name: (name, user.get())), on=lane)
        async with chain.filter(is_seen).flat_map(twice).open() as items:
            user.set("grace")
            assert [item async for item in items] == [("ada", "ada")]
            assert seen_by_filter == ["ada"]


def test_every_run_copies_the_context_anew(way):
    chain = flow([1]).map(seen, on="inline")
    for name in ("ada", "grace"):
        user.set(name)
        assert outcome(chain, way) == ([name], None)


def test_what_a_call_sets_does_not_reach_the_caller(lane, way):
    def change(n):
        user.set("changed")
        return n

    outcome(flow(range(5)).map(in_lane(lane, change), on=lane), way)
    assert user.get() == "nobody"


def test_what_one_run_sets_does_not_reach_the_next_run(lane):
    def change(n):
        user.set("changed")

    flow([1]).map(in_lane(lane, change), on=lane).run()
    assert flow([1]).map(in_lane(lane, seen), on=lane).collect() == ["nobody"]
