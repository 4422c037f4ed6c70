"""The Ray lane: calls in actors come back as if they had been made here, whatever becomes of an actor or its node."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from overlapped import HostDied, RemoteError, Retry, UsageError
from overlapped._engine import hosts
from overlapped._engine.host import Work
from overlapped.compare.server import page, running_server
from overlapped.errors import CallTimeout
from overlapped.lanes import ray as lane
from overlapped.testing import check_lane
from overlapped.testing.contracts import jobs
from tests.rules import process_kit as kit
from tests.rules.kit import flow, outcome, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ray = pytest.importorskip("ray")

# Ray keeps connections of this process to actors that have ended, for a while.
pytestmark = pytest.mark.keeps_descriptors

once = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="takes long, and is the same on every Python")

TWINS = {jobs.call_one: jobs.call_one_async, jobs.call_many: jobs.call_many_async}


@pytest.fixture(scope="module", autouse=True)
def running_ray() -> Iterator[None]:
    """One Ray for all tests: it takes seconds to start."""
    try:
        start_ray()
    except Exception as error:
        if "timed out during startup" not in str(error):  # it gives itself 30 s, whatever else the machine does
            raise
        ray.shutdown()
        start_ray()
    yield
    ray.shutdown(wait_for_processes=True)


def start_ray() -> None:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )


def make_port(fn, *, many: bool, is_async: bool = False) -> hosts.HostPort:
    from overlapped._engine.parcels import pack_function

    fn = TWINS[fn] if is_async else fn

    def broken(error: BaseException) -> None:
        raise error

    work = Work(
        pack_function(fn, "check", "fn", lane.PACKING),
        (),
        name="check",
        verb="flat_map" if many else "map",
        kind="coroutine" if is_async else "plain",
        many=many,
        main=lane.PACKING.origin,
        argv=sys.argv,
        packing=lane.PACKING,
    )
    return hosts.HostPort(
        lane.launch,
        work,
        clock=time.perf_counter,
        most=2,
        is_single=False,
        on_broken=broken,
        on_cleanup_error=broken,
        on_message=lambda *what: print(what),
        can_cancel=is_async,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_async", [False, pytest.param(True, marks=once)], ids=["plain", "async"])
def test_it_keeps_the_contract_of_a_lane(is_async, monkeypatch):
    # A worker process of Ray takes a second to start, and many on a busy machine: no lane is as slow.
    monkeypatch.setattr("overlapped.testing.contracts.jobs.QUIET_S", 40.0)
    monkeypatch.setattr("overlapped.testing.contracts.lane.LONGEST_S", 120.0)
    check_lane(functools.partial(make_port, is_async=is_async), is_chunked=True)


# -- results ----------------------------------------------------------------------------------------------


def test_every_verb_runs_there_and_results_are_those_of_a_plain_loop(ordered):
    options = {"on": "ray", "ordered": ordered, "concurrency": 4}
    chain = flow(range(20)).filter(kit.odd, **options).tap(kit.adouble, **options).flat_map(kit.several, **options)
    assert sorted(chain.collect()) == sorted(n for n in range(1, 20, 2) for _ in range(n))


def test_plain_functions_wait_together_in_the_threads_of_an_actor():
    before = time.perf_counter()
    values = flow([0.2] * 40).map(kit.naps_and_says_where, on="ray", concurrency=40).collect()
    assert max(ended for _, _, ended in values) - min(started for _, started, _ in values) < 40 * 0.2 / 4
    assert os.getpid() not in {pid for pid, _, _ in values}
    assert time.perf_counter() - before > 0.2


def test_generators_go_on_as_their_results_are_taken():
    chain = flow([1000, 3]).flat_map(kit.many, on="ray", concurrency=1)
    assert chain.collect() == [*range(1000), *range(3)]
    assert (
        flow(range(8)).flat_map(kit.aseveral, on="ray").take(20).collect()
        == [n for n in range(8) for _ in range(n)][:20]
    )


def test_what_stands_in_a_function_travels_by_value_and_its_results_are_of_its_own_classes():
    class Point:
        def __init__(self, x):
            self.x = x

    class Odd(Exception):
        pass

    def move(point):
        if point.x == 3:
            raise Odd(point.x)
        return Point(point.x + 1)

    values, failures = kept(flow([Point(1), Point(3), Point(5)]).map(move, on="ray"))
    assert {type(value) for value in values} == {Point}
    assert sorted(value.x for value in values) == [2, 6]
    assert [type(error) for error in failures] == [Odd]


def kept(chain):
    """The results and the failures."""
    with chain.open(on_failure="keep") as items:
        values = list(items)
        return values, [failure.error for failure in items.report.record.failures]


def test_an_exception_comes_out_as_itself_with_its_traceback_there(way):
    values, error = outcome(flow(range(10)).map(kit.fails_awaiting_at_3, on="ray", concurrency=2), way)
    assert values == [0, 1, 2]
    assert (type(error), error.args) == (kit.Boom, (3,))
    assert type(error.__cause__) is RemoteError
    assert "raised in Ray actor" in str(error.__cause__)
    assert "in fails_at_3" in error.__cause__.text


def test_retries_and_keys():
    report = flow(range(6)).map(kit.fails_at_3, on="ray", retry=Retry(attempts=3, base_s=0.001)).run(on_failure="keep")
    assert (report.items, report.failed, report.stages[0].retries, report.stages[0].lane) == (5, 1, 2, "ray")
    chain = flow(range(30)).map(kit.double, on="ray", key=kit.odd, per_key=1, concurrency=4)
    assert chain.collect() == [2 * n for n in range(30)]


def test_odd_results_and_items_are_failures_of_their_own():
    values, failures = kept(flow(range(10)).map(kit.makes_a_lock, on="ray", concurrency=2))
    assert values == [n for n in range(10) if n != 3]
    assert "cannot be sent" in failures[0].__notes__[0]
    values, failures = kept(flow([1, kit.Unpacks(os.getpid(), elsewhere=True), 2]).map(kit.double, on="ray"))
    assert (values, [type(error) for error in failures]) == ([2, 4], [kit.Boom])


@pytest.mark.parametrize("fn", [kit.asynchronous, kit.listed])
def test_a_plain_function_is_told_what_it_returns(fn):
    _, error = outcome(flow([1]).map(fn, on="ray"))
    assert (type(error) is UsageError) == (fn is kit.asynchronous)


# -- resources --------------------------------------------------------------------------------------------


def test_an_actor_opens_resources_once_or_one_for_each_thread(tmp_path):
    notes = tmp_path / "notes"
    connect = functools.partial(kit.Connection, str(notes))
    chain = flow(range(40)).map(kit.naps_with_connection, on="ray", concurrency=8)
    for per, least, most, most_each in (("run", 1, 2, 1), ("worker", 3, 8, 8)):
        notes.write_text("")
        assert len(chain.using(per=per, connection=connect).collect()) == 40
        opened, at_once = kit.opened_and_most(notes)
        assert least <= opened <= most
        assert at_once <= most_each


def test_a_resource_of_a_loop_belongs_to_the_loop_of_its_actor():
    values = flow(range(20)).map(kit.with_session, on="ray").using(session=kit.Session).collect()
    assert [n for n, _ in values] == [*range(20)]
    _, error = outcome(flow([1]).map(kit.with_connection, on="ray").using(connection=kit.cannot_connect))
    assert type(error) is kit.Boom


# -- time-outs ----------------------------------------------------------------------------------------------


def test_a_coroutine_is_cancelled_at_its_time_out(tmp_path):
    path = tmp_path / "said"
    values, failures = kept(flow([(30.0, str(path))]).map(kit.naps_and_says, on="ray", timeout_s=0.2))
    assert (values, [type(error) for error in failures]) == ([], [CallTimeout])
    wait_until(path.exists)


def test_a_call_in_a_thread_of_an_actor_runs_on_and_its_slot_is_held():
    chain = flow([0.8, 0.01, 0.01]).map(kit.naps_and_says_where, on="ray", concurrency=1, timeout_s=0.2, ordered=False)
    with chain.open(on_failure="keep") as items:
        values = list(items)
        (failure,) = items.report.record.failures
    assert (failure.item, type(failure.error)) == (0.8, CallTimeout)
    assert any("cannot be cancelled" in note for note in failure.error.__notes__)
    assert len(values) == 2


def test_calls_that_nobody_wants_end_with_their_actor():
    before = time.perf_counter()
    with (
        pytest.warns(ResourceWarning, match="calls in lane 'ray' did not end"),
        flow([40, 40, 0.01]).map(kit.naps, on="ray", concurrency=3, ordered=False).open() as items,
    ):
        assert next(items) == 0.01
    assert time.perf_counter() - before < 30


# -- actors and nodes that are lost ---------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [kit.naps_and_counts, kit.naps_awaiting_and_counts])
def test_an_actor_that_is_killed_costs_no_item_and_only_what_it_had_in_hand_is_called_again(fn, tmp_path):
    count, limit = 600, 20
    got = []
    victim = 0
    numbered = flow([(n, str(tmp_path / "calls")) for n in range(count)])
    with numbered.map(fn, on="ray", concurrency=limit).open() as items:
        for n, pid in items:
            got.append(n)
            if n == 100:
                victim = pid
                os.kill(pid, signal.SIGKILL)
    assert got == [*range(count)]
    called = [int(word) for word in (tmp_path / "calls").read_text().split()]
    assert set(called) == {*range(count)}
    assert len(called) <= count + 3 * limit  # twice: in the group that it was among, and in the half that failed again
    assert victim


@pytest.mark.parametrize("fn", [kit.dies_at_7, kit.dies_awaiting_at_7])
def test_an_item_that_kills_its_actor_is_one_failure(fn):
    values, failures = kept(flow(range(40)).map(fn, on="ray", concurrency=8))
    assert values == [n for n in range(40) if n != 7]
    assert [type(error) for error in failures] == [HostDied]
    assert "Ray actor" in str(failures[0])


def apart(name: str, *args: str) -> Any:
    """What something of `ray_kit` gives."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.rules.ray_kit", name, *args],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_flow_runs_on_two_nodes_and_the_loss_of_one_costs_no_item():
    with running_server() as port:
        found = apart("nodes", str(port))
    assert {size for _, size, _ in found["pages"]} == {len(page(0))}
    assert len({node for _, _, node in found["pages"]}) == 2
    assert found["values"] == [*range(len(found["values"]))]
    assert len(found["values"]) > 1_000
    assert len(found["nodes"]) == 2
    assert len(found["last_nodes"]) == 1
    assert found["is_initialized"]  # the user's Ray is left to the user


# -- Ray itself -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(200)
@once
def test_where_nobody_has_started_ray_the_run_does_and_nothing_is_left_of_it():
    found = apart("alone")
    assert found == {"values": [n + 1 for n in range(50)], "is_initialized": False, "left": [], "shared": []}


@pytest.mark.slow
@pytest.mark.timeout(200)
@once
def test_no_process_is_left_when_the_run_itself_is_killed():
    with subprocess.Popen(
        [sys.executable, "-m", "tests.rules.ray_kit", "killed"], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pids, others = json.loads(run.stdout.readline())
        run.kill()
    folders = [line for line in others if line.startswith("/")]
    pids += [int(line.split()[0]) for line in others if line not in folders]
    assert len(pids) > 3
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    for folder in folders:  # its logs: nobody was there to remove them
        shutil.rmtree(folder)


def test_without_ray_the_line_to_write_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'overlapped\[ray\]'"):
        flow([1]).map(kit.double, on="ray")


def test_a_node_with_another_version_is_told_of(monkeypatch):
    monkeypatch.setattr(lane, "__version__", "0.0.1")
    _, error = outcome(flow([1]).map(kit.double, on="ray"))
    assert type(error) is UsageError
    assert "the run 0.0.1; install the same" in str(error)


def test_each_node_gets_as_many_actors_as_it_has_cpus_in_turn():
    cpus = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0}
    assert [lane.turn_of(turn, cpus) for turn in range(8)] == ["a", "b", "c", "b", "c", "b", "a", "b"]
    assert lane.turn_of(5, {"d": 0.0}) == "d"


def test_the_clock_of_another_machine_is_read_at_its_quickest_answer(monkeypatch):
    """Answers take 10, 2, 4, 6 and 8 ms there and back; that clock is 1,000 s ahead."""
    now = 50.0
    took = iter([0.010, 0.002, 0.004, 0.006, 0.008])
    link: Any = lane.ActorLink.__new__(lane.ActorLink)
    link._best_s, link.offset_s = float("inf"), 0.0
    listens = []

    def ask(answer, take):
        nonlocal now
        there_s = next(took)
        now += there_s
        take(now - there_s / 2 + 1_000)

    link._actor, link._ask, link._listen = (
        SimpleNamespace(clock=SimpleNamespace(remote=lambda: None)),
        ask,
        lambda: listens.append(now),
    )
    monkeypatch.setattr("overlapped.lanes.ray.time.perf_counter", lambda: now)
    link._ping(lane.PINGS)
    assert link.offset_s == pytest.approx(-1_000)
    assert len(listens) == 1
