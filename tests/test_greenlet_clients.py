"""Blocking clients in greenlets, against real servers: their waits overlap, though they know of nothing."""

from __future__ import annotations

import os
import sys
import time

import pytest

from overlapped import flow
from overlapped.compare.server import running_server, urls
from overlapped.errors import CallTimeout
from tests.rules import greenlet_kit as kit

pytest.importorskip("gevent", reason="the lane needs it")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hosts need socket pairs that a process inherits")

CALLS = 20
SERIAL_S = CALLS * kit.NAP_S


@pytest.fixture
def postgres():
    pytest.importorskip("psycopg2")
    if not kit.is_listening(5432):
        pytest.skip("no PostgreSQL here")


@pytest.fixture
def redis():
    pytest.importorskip("redis")
    if not kit.is_listening(6379):
        pytest.skip("no Redis here")


def assert_together(spans):
    """One after the other, they would take 10 s, or 5 s in two processes."""
    assert len(spans) == CALLS
    edges = sorted([(start, 1) for _, start, _ in spans] + [(end, -1) for _, _, end in spans])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    assert most >= CALLS / 2, f"{most} at once"
    assert max(end for *_, end in spans) - min(start for _, start, _ in spans) < SERIAL_S / 2


@pytest.mark.parametrize("ask", [kit.asks_psycopg2, kit.asks_psycopg, kit.asks_pg8000], ids=lambda fn: fn.__name__)
def test_queries_wait_together(ask, postgres):
    pytest.importorskip({"asks_psycopg": "psycopg", "asks_pg8000": "pg8000"}.get(ask.__name__, "psycopg2"))
    stage = flow(range(CALLS)).map(ask, on="greenlet", concurrency=CALLS)
    report = stage.run()
    assert report.stages[0].remarks == ()
    assert_together(stage.collect())


def test_requests_to_a_web_server_wait_together():
    pytest.importorskip("requests")
    with running_server() as port:
        pages = urls(port, CALLS, kit.NAP_S)
        assert_together(flow(pages).map(kit.gets_with_requests, on="greenlet", concurrency=CALLS).collect())


def test_a_client_of_redis_serves_all_greenlets_of_a_process(redis):
    chain = flow(range(CALLS)).map(kit.pops_redis, on="greenlet", concurrency=CALLS).using(client=kit.open_redis)
    assert_together(chain.collect())


def test_each_greenlet_may_have_a_connection_of_its_own(postgres):
    chain = flow([0.05] * 40).map(kit.asks_its_connection, on="greenlet", concurrency=8)
    used = chain.using(per="worker", connection=kit.connect_psycopg2).collect()
    assert len(used) == 40
    assert 2 <= len({backend for _, backend in used}) <= 8, "kept from call to call"


def test_a_query_that_takes_too_long_is_stopped_and_its_connection_replaced(postgres):
    started = time.perf_counter()
    chain = flow([30.0, 0.01, 0.01]).map(kit.asks_its_connection, on="greenlet", concurrency=1, timeout_s=0.3)
    with chain.using(per="worker", connection=kit.connect_psycopg2).open(on_failure="keep") as items:
        backends = {backend for _, backend in items}
        (failure,) = items.report.record.failures
    assert (failure.item, type(failure.error)) == (30.0, CallTimeout)
    assert len(backends) == 1
    assert time.perf_counter() - started < 15


def test_psycopg2_waits_in_the_hub_whenever_it_is_imported(postgres):
    """Before the lane begins, with the module of the function, or in the middle of a call."""
    chain = flow(range(2)).map(kit.waits_by_callback, on="greenlet", concurrency=1)
    assert chain.collect() == [True, True]
    assert os.getpid() not in {pid for pid, *_ in flow(range(2)).map(kit.asks_psycopg2, on="greenlet").collect()}
