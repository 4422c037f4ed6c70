"""The greenlet lane: blocking code waits by the hundred in a process, and what does not give way is told of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from overlapped import AUTO, HostDied, Rate, RemoteError, Retry, UsageError
from overlapped._engine import hosts
from overlapped._engine.host import Work
from overlapped.errors import CallTimeout
from overlapped.lanes import greenlet
from overlapped.testing import check_lane
from tests.rules import greenlet_kit as kit
from tests.rules import process_kit
from tests.rules.kit import Limits, flow, outcome, wait_until

pytest.importorskip("gevent", reason="the lane needs it")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hosts need socket pairs that a process inherits")


def make_port(fn, *, many: bool) -> hosts.HostPort:
    from overlapped._engine.parcels import main_origin, pack_function

    def broken(error: BaseException) -> None:
        raise error

    work = Work(
        pack_function(fn, "check", "fn"),
        (),
        name="check",
        verb="flat_map" if many else "map",
        kind="plain",
        many=many,
        main=main_origin(),
        argv=sys.argv,
    )
    return hosts.HostPort(
        greenlet.launch,
        work,
        clock=time.perf_counter,
        most=2,
        is_single=False,
        on_broken=broken,
        on_cleanup_error=broken,
        on_message=print,
    )


def kept(chain):
    """The results and the failures, by item."""
    with chain.open(on_failure="keep") as items:
        values = sorted(items)
        failures = items.report.record.failures
    return values, {failure.item: failure.error for failure in failures}


def most_at_once(spans):
    edges = sorted([(start, 1) for _, start, _ in spans] + [(end, -1) for _, _, end in spans])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


@pytest.mark.slow
def test_it_keeps_the_contract_of_a_lane():
    check_lane(make_port, is_chunked=True)


# -- results ----------------------------------------------------------------------------------------------


def test_results_are_those_of_a_plain_loop(way, ordered):
    values, error = outcome(flow(range(500)).map(process_kit.double, on="greenlet", ordered=ordered), way)
    assert error is None
    assert sorted(values) == [2 * n for n in range(500)]
    assert not ordered or values == sorted(values)


def test_every_verb_runs_there(ordered):
    options = {"on": "greenlet", "ordered": ordered, "concurrency": 6}
    chain = flow(range(20)).filter(process_kit.odd, **options).tap(process_kit.double, **options)
    chain = chain.flat_map(process_kit.several, **options)
    assert sorted(chain.collect()) == sorted(n for n in range(1, 20, 2) for _ in range(n))


@pytest.mark.parametrize("fn", [process_kit.several, process_kit.listed])
def test_many_results_of_a_call_keep_their_order(fn, limit):
    values = flow(range(12)).flat_map(fn, on="greenlet", concurrency=limit).collect()
    assert values == [n for n in range(12) for _ in range(n)]


def test_a_generator_goes_on_as_its_results_are_taken():
    chain = flow([5000, 3]).flat_map(process_kit.many, on="greenlet", concurrency=1)
    assert chain.collect() == [*range(5000), *range(3)]
    assert chain.take(100).collect() == [*range(100)]
    assert len(flow([20] * 30).flat_map(kit.yields_naps, on="greenlet", concurrency=30).collect()) == 600


def test_the_process_is_patched_before_anything_of_ours_is_imported():
    assert set(flow(range(3)).map(kit.is_patched, on="greenlet")) == {(True, True)}
    code = "import sys; print([name for name in sys.modules if name.startswith('overlapped')], sys.modules['gevent'])"
    done = subprocess.run(
        [sys.executable, "-c", f"{greenlet.PRELUDE}\n{code}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("[] ")


@pytest.mark.parametrize("concurrency", [1, 40])
def test_calls_wait_together_and_never_more_than_the_limit(concurrency):
    spans = flow([0.01] * (20 * concurrency)).map(kit.spans, on="greenlet", concurrency=concurrency).collect()
    assert most_at_once(spans) <= concurrency
    assert most_at_once(spans) > concurrency * 0.6
    assert 1 <= len({pid for pid, _, _ in spans}) <= min(concurrency, len(os.sched_getaffinity(0)))


def test_a_changing_limit_loses_no_item(ordered):
    spec = Limits(*[20] * 30, 1, *[1] * 10, 15, *[15] * 20, 3)
    chain = flow([0.002] * 300).map(kit.naps, on="greenlet", concurrency=spec, ordered=ordered)
    assert len(chain.collect()) == 300


def test_auto_finds_its_limit():
    (stage,) = flow([0.01] * 600).map(kit.naps, on="greenlet", concurrency=AUTO).run().stages
    assert stage.lane == "greenlet"
    assert stage.calls == 600
    assert stage.limit > 10


def test_retries_rates_and_keys():
    chain = flow(range(6)).map(process_kit.fails_at_3, on="greenlet", retry=Retry(attempts=3, base_s=0.001))
    report = chain.run(on_failure="keep")
    assert (report.items, report.failed, report.stages[0].retries) == (5, 1, 2)
    assert len(flow(range(30)).map(process_kit.double, on="greenlet", rate=Rate(1000, per_s=1)).collect()) == 30
    chain = flow(range(30)).map(process_kit.double, on="greenlet", key=process_kit.odd, per_key=1, concurrency=4)
    assert chain.collect() == [2 * n for n in range(30)]


# -- failures ---------------------------------------------------------------------------------------------


def test_an_exception_comes_out_as_itself_with_its_traceback_there(way):
    values, error = outcome(flow(range(10)).map(process_kit.fails_at_3, on="greenlet"), way)
    assert values == [0, 1, 2]
    assert type(error) is process_kit.Boom
    assert type(error.__cause__) is RemoteError
    assert "in fails_at_3" in error.__cause__.text


def test_exceptions_of_gevent_fail_their_item_only():
    values, failures = kept(flow(range(8)).map(kit.times_out, on="greenlet", concurrency=8))
    assert values == [0, 1, 2, 4, 5, 6, 7]
    assert {item: type(error) for item, error in failures.items()} == {3: TimeoutError}
    values, failures = kept(flow(range(8)).map(kit.exits_at_3, on="greenlet", concurrency=8))
    assert values == [0, 1, 2, 4, 5, 6, 7]
    assert {item: type(error) for item, error in failures.items()} == {3: RuntimeError}


def test_system_exit_ends_the_run_as_it_does_in_other_lanes():
    with pytest.raises(SystemExit, match="5"):
        flow(range(10)).map(process_kit.leaves, on="greenlet").run()


def test_what_cannot_travel_is_the_failure_of_its_item_only():
    values, failures = kept(flow(range(50)).map(process_kit.makes_a_lock, on="greenlet"))
    assert values == [n for n in range(50) if n != 3]
    assert list(failures) == [3]
    bad = process_kit.Unpacks(os.getpid(), elsewhere=True)
    values, failures = kept(flow([*range(20), bad, *range(20)]).map(process_kit.double, on="greenlet"))
    assert len(values) == 40
    assert {item: type(error) for item, error in failures.items()} == {bad: process_kit.Boom}


def test_a_generator_that_gives_what_cannot_travel_ends_there_and_holds_up_no_other():
    values, failures = kept(flow(range(6)).flat_map(process_kit.yields_a_lock_at_3, on="greenlet", concurrency=1))
    assert values == sorted([3] + [n for n in range(6) if n != 3 for _ in range(101)])
    assert [*failures] == [3]


# -- processes that die -----------------------------------------------------------------------------------


def test_an_item_that_kills_its_process_is_one_failure(ordered):
    chain = flow(range(200)).map(kit.dies_napping_at_7, on="greenlet", ordered=ordered, concurrency=100)
    values, failures = kept(chain)
    assert values == [n for n in range(200) if n != 7]
    assert {item: type(error) for item, error in failures.items()} == {7: HostDied}


def test_a_process_killed_in_the_middle_costs_no_item_and_gives_none_twice(ordered):
    got = []
    victims = set[int]()
    chain = flow([0.005 + n / 1e6 for n in range(600)]).map(kit.spans, on="greenlet", concurrency=60, ordered=ordered)
    with chain.open() as items:
        for pid, started, _ in items:
            got.append((pid, started))
            if len(victims) < 2 and len(got) >= 50 + 200 * len(victims) and pid not in victims:
                victims.add(pid)  # a result may be that of a process which has gone since
                os.kill(pid, signal.SIGKILL)
    assert len(got) == len(set(got)) == 600
    assert victims


def test_no_process_is_left_when_the_run_itself_is_killed(tmp_path):
    """Not even one whose greenlets stand still, so that none of them could notice."""
    code = """
        import threading, time
        from overlapped import flow
        from tests.rules import greenlet_kit as kit

        is_under_way = threading.Event()

        def source():
            yield from [(0.001, 0)] * 200
            is_under_way.wait()
            yield from [(60, 1)] * 8

        with flow(source()).map(kit.pid_or_hang, on="greenlet", concurrency=4).open() as items:
            pids = {next(items) for _ in range(200)}
            is_under_way.set()
            time.sleep(0.5)
            print(*pids, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        run.kill()
    assert pids
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


@pytest.mark.parametrize("is_watched", [True, False])
def test_processes_say_nothing_when_the_run_is_gone(is_watched):
    """A greenlet that has an answer and finds nobody, before the watching thread did: that is no news."""
    blind = "from overlapped._engine.heartbeat import Heartbeat; Heartbeat.begin = lambda self: None"
    code = f"""
        import time
        from overlapped import flow
        from overlapped.lanes import greenlet
        from tests.rules import greenlet_kit as kit

        greenlet.PRELUDE += {("" if is_watched else "; " + blind)!r}
        with flow([0.005] * 10_000).map(kit.computes, on="greenlet", concurrency=4).open() as items:
            for _ in range(20):
                next(items)
            print("under way", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "under way\n"
        run.kill()
        _, said = run.communicate()  # until those that it has started are gone too
    assert not said


# -- the end, time-outs -----------------------------------------------------------------------------------


def test_a_break_leaves_no_process():
    for _ in flow(range(10_000)).map(process_kit.double, on="greenlet"):
        break
    with flow(range(10_000)).map(process_kit.pid, on="greenlet").open() as items:
        next(items)


def test_a_call_is_stopped_where_it_waits_at_its_time_out(tmp_path):
    path = tmp_path / "said"
    chain = flow([(30.0, str(path)), (0.01, "")]).map(kit.naps_and_says, on="greenlet", timeout_s=0.2)
    values, failures = kept(chain)
    assert values == [0.01]
    assert [type(error) for error in failures.values()] == [CallTimeout]
    wait_until(lambda: path.exists() and path.read_text() == "GreenletExit")


def test_calls_that_nobody_wants_are_stopped_and_not_waited_for(tmp_path):
    paths = [tmp_path / str(n) for n in range(3)]
    items = [(0.05, ""), *((60.0, str(path)) for path in paths)]
    with flow(items).map(kit.naps_and_says, on="greenlet", concurrency=8).open() as results:
        assert next(results) == 0.05
        started = time.perf_counter()
    assert time.perf_counter() - started < 30
    assert all(path.read_text() == "GreenletExit" for path in paths)


def test_a_call_that_will_not_stop_keeps_no_other_from_its_place():
    chain = flow([1.0, *[0.01] * 40]).map(kit.will_not_stop, on="greenlet", concurrency=2, timeout_s=0.1)
    values, failures = kept(chain)
    assert values == [0.01] * 40
    assert [type(error) for error in failures.values()] == [CallTimeout]


def test_stopping_one_call_never_hits_the_next_of_its_greenlet():
    """Each second call runs into its time-out just when it ends."""
    chain = flow([0.02, 0.001] * 200).map(kit.naps, on="greenlet", concurrency=8, timeout_s=0.02, ordered=False)
    values, failures = kept(chain)
    assert values.count(0.001) == 200
    assert {type(error) for error in failures.values()} <= {CallTimeout}


@pytest.mark.slow
def test_a_time_out_comes_true_even_if_the_call_never_gives_way(monkeypatch):
    """No greenlet of that process can hear of it: it is ended, and what else it had is called again elsewhere."""
    monkeypatch.setattr(hosts, "DEAF_S", 0.3)
    started = time.perf_counter()
    items = [(n, 60.0) for n in range(100)]
    chain = flow(items).map(kit.waits_in_c_at_0, on="greenlet", timeout_s=0.5, concurrency=4)
    with pytest.warns(RuntimeWarning, match="does not yield"):
        values, failures = kept(chain)
    assert values == [*range(1, 100)]
    assert {item[0]: type(error) for item, error in failures.items()} == {0: CallTimeout}
    assert time.perf_counter() - started < 20


# -- resources --------------------------------------------------------------------------------------------


def test_each_process_opens_and_closes_resources_of_its_own(tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    monkeypatch.setenv("CONNECTION_NOTES", str(notes))
    chain = flow(range(60)).map(process_kit.with_connection, on="greenlet", concurrency=8)
    chain = chain.using(connection=process_kit.connect)
    pids = {pid for _, pid in chain.collect()}
    lines = [line.split() for line in notes.read_text().splitlines()]
    opened = [pid for what, pid in lines if what == "open"]
    assert sorted(opened) == sorted(set(opened)) == sorted(pid for what, pid in lines if what == "close")
    assert {str(pid) for pid in pids} <= set(opened)
    assert str(os.getpid()) not in opened


def test_each_greenlet_has_a_resource_of_its_own_per_worker(tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    monkeypatch.setenv("CONNECTION_NOTES", str(notes))
    chain = flow([0.02] * 60).map(kit.naps_with_its_own, on="greenlet", concurrency=6)
    assert max(chain.using(per="worker", connection=process_kit.connect).collect()) == 1, "never used by two at once"
    opened, at_once = process_kit.opened_and_most(notes)
    assert at_once <= 6
    assert 2 <= opened <= 6, "those that leave hand theirs on"


def test_a_call_that_was_stopped_costs_its_worker_that_resource(tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    monkeypatch.setenv("CONNECTION_NOTES", str(notes))
    chain = flow([30.0, 0.01, 0.01]).map(kit.naps_with_its_own, on="greenlet", concurrency=1, timeout_s=0.2)
    values, _ = kept(chain.using(per="worker", connection=process_kit.connect))
    assert len(values) == 2
    lines = [line.split()[0] for line in notes.read_text().splitlines()]
    assert lines == ["open", "close", "open", "close"]


@pytest.mark.parametrize("per", ["run", "worker"])
def test_a_resource_that_cannot_be_opened_ends_the_run(per):
    chain = flow(range(5)).map(process_kit.with_connection, on="greenlet")
    _, error = outcome(chain.using(per=per, connection=process_kit.cannot_connect))
    assert type(error) is process_kit.Boom


# -- what does not yield ----------------------------------------------------------------------------------


def told(chain: Any) -> tuple[str, Any]:
    """The warning of a run, and its record."""
    with pytest.warns(RuntimeWarning) as caught:
        report = chain.run()
    (message,) = {str(warning.message) for warning in caught}
    return message, report


@pytest.mark.parametrize("nap_s", [0.5, 0.02], ids=["one long call", "many short ones"])
def test_a_client_in_c_that_holds_up_the_others_is_told_of(nap_s):
    """Each alone would do no harm; one after the other they take the time of all."""
    chain = flow([nap_s] * int(2 / nap_s)).map(kit.waits_in_c, on="greenlet", concurrency=16)
    message, report = told(chain)
    assert message.startswith("waits_in_c: this call does not yield: a C client; ")
    assert "greenlet_kit.py:" in message
    assert "in waits_in_c" in message
    assert message.endswith('write .map(waits_in_c, on="thread")')
    assert len(report.stages[0].remarks) == 1, "once, though each process noticed"
    assert "this call does not yield: a C client" in str(report)


def test_work_that_holds_up_the_others_is_told_of():
    message, _ = told(flow([0.4] * 6).map(kit.computes, on="greenlet", concurrency=6))
    assert "this call does not yield: CPU work; computes, at greenlet_kit.py:" in message
    assert message.endswith('write .map(computes, on="process")')


def test_calls_that_give_way_are_not_told_of():
    chain = flow([0.3] * 20).map(kit.naps, on="greenlet", concurrency=10)
    assert chain.run().stages[0].remarks == ()
    assert flow(range(50_000)).map(process_kit.double, on="greenlet", concurrency=10).run().stages[0].remarks == ()


def test_an_import_in_a_call_is_no_call_that_does_not_yield(tmp_path):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    )
    chain = flow([(n, str(tmp_path)) for n in range(8)]).map(kit.imports_slowly, on="greenlet", concurrency=8)
    assert chain.run().stages[0].remarks == ()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the others need a second process")
def test_what_lies_behind_a_call_that_holds_up_its_process_goes_to_another():
    """All but the one that may have begun beside it; both processes are at work before the long call comes."""
    are_up = threading.Event()

    def source():
        while not are_up.is_set():
            yield 0.01
        yield from [0.01] * 40
        yield 3.0
        yield from [0.01] * 200

    pids, after = set(), []
    # So many at once that the long call is never alone in its process, in which case there is nobody to be told of.
    chain = flow(source).map(kit.spans_in_c_if_long, on="greenlet", concurrency=16, ordered=False)
    with pytest.warns(RuntimeWarning, match="does not yield"), chain.open() as results:  # noqa: PT031 - it may come any time
        for pid, started, ended in results:
            pids.add(pid)
            after.append(ended - started)
            if len(pids) == 2:
                are_up.set()
    assert len(after) - after.index(max(after)) <= 40, "the others did not wait for it"


def test_a_call_alone_holds_up_nobody():
    assert flow([0.5]).map(kit.waits_in_c, on="greenlet", concurrency=4).run().stages[0].remarks == ()
    assert flow([0.3] * 2).map(kit.waits_in_c, on="greenlet", concurrency=1).run().stages[0].remarks == ()


# -- what is refused --------------------------------------------------------------------------------------


def test_without_gevent_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(greenlet, "is_installed", lambda: False)
    with pytest.raises(
        UsageError, match=r"map\(naps\): on=.greenlet. needs gevent; .*pip install 'overlapped\[gevent\]'"
    ):
        flow([1]).map(kit.naps, on="greenlet")


def test_a_coroutine_function_is_told_where_it_belongs():
    with pytest.raises(UsageError, match=r"adouble is async and runs on the loop; write \.map\(adouble\)"):
        flow([1]).map(process_kit.adouble, on="greenlet")


def test_a_plain_function_that_returns_coroutines_is_refused():
    _, error = outcome(flow([1]).map(process_kit.asynchronous, on="greenlet"))
    assert type(error) is UsageError
    _, error = outcome(flow([1]).flat_map(process_kit.streaming, on="greenlet"))
    assert type(error) is UsageError


def script(tmp_path, text: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "job.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=30, check=False)


def test_a_process_that_is_patched_itself_runs_flows_on_a_loop_that_gevent_sees(tmp_path):
    done = script(
        tmp_path,
        """
        from gevent import monkey; monkey.patch_all()
        import asyncio, time, gevent
        from overlapped import flow

        def nap(n): time.sleep(0.001); return n
        async def anap(n): await asyncio.sleep(0.001); return n

        ticks = gevent.spawn(lambda: [gevent.sleep(0.001) for _ in range(1000)])
        for fn in (nap, anap):
            print(flow(range(5)).map(fn).collect(), [*flow(range(5)).map(fn)])
        ticks.kill()
        """,
    )
    assert done.stdout == "[0, 1, 2, 3, 4] [0, 1, 2, 3, 4]\n" * 2, done.stderr


def test_a_patched_process_with_a_loop_that_gevent_does_not_see_is_refused(tmp_path):
    pytest.importorskip("uvloop")
    done = script(
        tmp_path,
        """
        from gevent import monkey; monkey.patch_all()
        import uvloop
        from overlapped import flow

        async def main(): return await flow(range(5)).map(abs).acollect()
        uvloop.run(main())
        """,
    )
    assert "UsageError: gevent has patched this process, and uvloop waits where gevent cannot see it" in done.stderr
    assert 'write on="greenlet"' in done.stderr


def test_no_process_is_started_from_a_patched_one(tmp_path):
    done = script(
        tmp_path,
        """
        from gevent import monkey; monkey.patch_all()
        from overlapped import flow

        if __name__ == "__main__":
            flow(range(5)).map(abs, on="greenlet").run()
        """,
    )
    assert 'UsageError: on="greenlet" cannot start processes from one that gevent has patched' in done.stderr


def test_a_module_that_describes_flows_can_be_imported_by_its_own_hosts(tmp_path):
    done = script(
        tmp_path,
        """
        from overlapped import flow

        def double(n): return 2 * n

        job = flow(range(3)).map(double, on="greenlet")
        other = flow(range(3)).map(double, on="process")

        if __name__ == "__main__":
            print(job.collect(), other.collect())
        """,
    )
    assert (done.stdout, done.stderr) == ("[0, 2, 4] [0, 2, 4]\n", "")
