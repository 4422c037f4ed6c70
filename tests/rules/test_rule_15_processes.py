"""The process lane: calls elsewhere come back as if they had been made here, whatever happens to a process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipapp
from typing import Any

import pytest

from overlapped import HostDied, Rate, RemoteError, Retry, UsageError
from overlapped._engine import hosts
from overlapped._engine.host import END, Work
from overlapped.errors import CallTimeout
from overlapped.lanes import process
from overlapped.testing import check_lane
from overlapped.testing.contracts import jobs
from tests.rules import process_kit as kit
from tests.rules.kit import Limits, Pulled, cap, flow, outcome, rest, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hosts need socket pairs that a process inherits")


TWINS = {jobs.call_one: jobs.call_one_async, jobs.call_many: jobs.call_many_async}


def make_port(fn, *, many: bool, ahead: int = hosts.MOST_AHEAD, is_async: bool = False) -> hosts.HostPort:
    from overlapped._engine.parcels import main_origin, pack_function

    fn = TWINS[fn] if is_async else fn

    def broken(error: BaseException) -> None:
        raise error

    work = Work(
        pack_function(fn, "check", "fn"),
        (),
        name="check",
        verb="flat_map" if many else "map",
        kind="coroutine" if is_async else "plain",
        many=many,
        main=main_origin(),
        argv=sys.argv,
    )
    return hosts.HostPort(
        process.launch,
        work,
        clock=time.perf_counter,
        most=2 if is_async else 6,
        is_single=not is_async,
        ahead=ahead,
        on_broken=broken,
        on_cleanup_error=broken,
        on_message=print,
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("ahead", [0, hosts.MOST_AHEAD])
def test_it_keeps_the_contract_of_a_lane(ahead, is_async):
    check_lane(functools.partial(make_port, ahead=ahead, is_async=is_async), is_chunked=ahead > 0 or is_async)


# -- results ----------------------------------------------------------------------------------------------


def test_results_are_those_of_a_plain_loop(way, ordered):
    values, error = outcome(flow(range(500)).map(kit.double, on="process", ordered=ordered), way)
    assert error is None
    assert sorted(values) == [2 * n for n in range(500)]
    assert not ordered or values == sorted(values)


def test_every_verb_runs_there(ordered):
    options = {"on": "process", "ordered": ordered, "concurrency": 2}
    chain = flow(range(20)).filter(kit.odd, **options).tap(kit.double, **options).flat_map(kit.several, **options)
    assert sorted(chain.collect()) == sorted(n for n in range(1, 20, 2) for _ in range(n))


@pytest.mark.parametrize("fn", [kit.several, kit.listed])
def test_many_results_of_a_call_keep_their_order(fn, limit):
    values = flow(range(12)).flat_map(fn, on="process", concurrency=limit).collect()
    assert values == [n for n in range(12) for _ in range(n)]


def test_a_generator_goes_on_as_its_results_are_taken():
    chain = flow([5000, 3]).flat_map(kit.many, on="process", concurrency=1)
    assert chain.collect() == [*range(5000), *range(3)]
    assert chain.take(100).collect() == [*range(100)]


def test_calls_run_in_processes_of_their_own():
    values = flow(range(100)).map(kit.pid, on="process", concurrency=2).collect()
    assert os.getpid() not in values
    assert 1 <= len(set(values)) <= 2
    assert len(set(flow(range(20)).map(kit.pid, on="process", concurrency=1))) == 1


def test_large_items_and_results():
    blobs = [bytes([n]) * 3_000_000 for n in range(6)]
    assert flow(blobs).map(kit.length, on="process").collect() == [blob + b"!" for blob in blobs]


def test_batches_and_partials():
    assert flow(range(10)).batch(4).map(sum, on="process").collect() == [6, 22, 17]
    assert flow(range(5)).map(functools.partial(pow, 2), on="process").collect() == [1, 2, 4, 8, 16]


def test_retries_rates_and_keys():
    report = (
        flow(range(6)).map(kit.fails_at_3, on="process", retry=Retry(attempts=3, base_s=0.001)).run(on_failure="keep")
    )
    assert (report.items, report.failed, report.stages[0].retries) == (5, 1, 2)
    assert len(flow(range(30)).map(kit.double, on="process", rate=Rate(1000, per_s=1)).collect()) == 30
    chain = flow(range(30)).map(kit.double, on="process", key=kit.odd, per_key=1, concurrency=4)
    assert chain.collect() == [2 * n for n in range(30)]


def test_the_account_knows_the_lane_and_its_cpu_time():
    (stage,) = flow(range(50)).map(kit.pid, on="process", concurrency=8).run().stages
    assert stage.lane == "process"
    assert stage.calls == 50
    assert 0 < stage.cpu_s < stage.service_s
    assert stage.service_s >= 50 * 0.002


def test_a_flow_in_a_process_may_have_processes():
    assert flow([3, 4]).map(kit.inner, on="process", concurrency=2).collect() == [6, 12]


def test_a_long_call_holds_up_none_of_the_short_ones_behind_it():
    """Hundreds of short jobs lie ready in each process; those behind a long one are given back."""
    got = []
    with flow(range(1400)).map(kit.short_but_for_7, on="process", concurrency=2, ordered=False).open() as items:
        got += items
    assert sorted(got) == [*range(1400)]
    if len(os.sched_getaffinity(0)) > 1:
        assert got[-1] == 700


# -- failures ---------------------------------------------------------------------------------------------


def test_an_exception_comes_out_as_itself_with_its_traceback_there(way):
    values, error = outcome(flow(range(10)).map(kit.fails_at_3, on="process"), way)
    assert values == [0, 1, 2]
    assert type(error) is kit.Boom
    assert error.args == (3,)
    assert type(error.__cause__) is RemoteError
    assert "in fails_at_3" in error.__cause__.text
    assert any("stage 'fails_at_3', item 3" in note for note in error.__notes__)


def test_an_exception_that_cannot_be_read_back_is_a_remote_error_with_its_text():
    _, error = outcome(flow([1]).map(kit.fails_stubbornly, on="process"))
    assert type(error) is RemoteError
    assert "this and that" in str(error)
    assert "in fails_stubbornly" in error.text


def test_an_exception_whose_init_makes_its_message_says_it_once():
    _, error = outcome(flow(["x"]).map(kit.finds_nothing, on="process"))
    assert (type(error), str(error), error.url) == (kit.NotFound, "x was not found", "x")


def test_system_exit_ends_the_run_as_it_does_in_other_lanes():
    with pytest.raises(SystemExit, match="5"):
        flow(range(10)).map(kit.leaves, on="process").run()


def kept(chain):
    """The results and the failures, by item."""
    with chain.open(on_failure="keep") as items:
        values = sorted(items)
        failures = items.report.record.failures
    return values, {failure.item: failure.error for failure in failures}


def test_a_result_that_cannot_travel_is_the_failure_of_its_item_only():
    values, failures = kept(flow(range(50)).map(kit.makes_a_lock, on="process"))
    assert values == [n for n in range(50) if n != 3]
    assert "lock" in str(failures[3])
    assert "cannot be sent" in failures[3].__notes__[0]


def test_a_result_that_cannot_be_read_here_is_the_failure_of_its_item_only():
    items = [(n, os.getpid()) for n in range(50)]
    values, failures = kept(flow(items).map(kit.makes_what_cannot_be_read, on="process"))
    assert values == [n for n in range(50) if n != 3]
    assert {item: type(error) for item, error in failures.items()} == {items[3]: kit.Boom}


@pytest.mark.parametrize("fn", [kit.yields_a_lock_at_3, kit.ayields_a_lock_at_3])
def test_a_generator_that_gives_what_cannot_travel_ends_there_and_holds_up_no_other(fn):
    values, failures = kept(flow(range(6)).flat_map(fn, on="process", concurrency=1))
    assert values == sorted([3] + [n for n in range(6) if n != 3 for _ in range(101)])
    assert [*failures] == [3]
    assert "a result of type lock cannot be sent" in failures[3].__notes__[0]


@pytest.mark.parametrize("fn", [kit.spoils_its_first_result_once, kit.aspoils_its_first_result_once])
def test_a_generator_whose_result_cannot_be_read_has_ended_before_it_is_called_again(tmp_path, fn):
    items = [(os.getpid(), f"{tmp_path}/1"), (os.getpid(), f"{tmp_path}/2")]
    retry = Retry(attempts=2, base_s=0.001)
    assert flow(items).flat_map(fn, on="process", concurrency=1, retry=retry).collect() == [*range(100)] * 2


def test_an_item_that_cannot_travel_is_one_failure():
    import threading

    items = [1, threading.Lock(), 2]
    values, failures = kept(flow(items).map(kit.double, on="process"))
    assert values == [2, 4]
    assert "item of type lock cannot be sent" in failures[items[1]].__notes__[0]


def test_an_item_that_cannot_be_read_there_is_one_failure():
    bad = kit.Unpacks(os.getpid(), elsewhere=True)
    values, failures = kept(flow([*range(20), bad, *range(20)]).map(kit.double, on="process"))
    assert len(values) == 40
    assert {item: type(error) for item, error in failures.items()} == {bad: kit.Boom}


def test_a_plain_function_that_returns_coroutines_is_refused():
    _, error = outcome(flow([1]).map(kit.asynchronous, on="process"))
    assert type(error) is UsageError


def test_what_only_a_loop_can_iterate_is_refused_there():
    _, error = outcome(flow(range(3)).flat_map(kit.streaming, on="process"))
    assert type(error) is UsageError
    assert "returned an async iterable in the process lane" in str(error)
    assert flow(range(3)).flat_map(kit.both_ways, on="process").collect() == [0, 0, 1]


# -- processes that die -----------------------------------------------------------------------------------


def test_an_item_that_kills_its_process_is_one_failure(ordered):
    values, failures = kept(flow(range(200)).map(kit.dies_at_7, on="process", ordered=ordered))
    assert values == [n for n in range(200) if n != 7]
    assert {item: type(error) for item, error in failures.items()} == {7: HostDied}
    assert "SIGKILL" in str(failures[7])


def test_an_item_whose_process_died_once_is_called_again(tmp_path):
    items = [(n, str(tmp_path / "died")) for n in range(200)]
    assert flow(items).map(kit.dies_once, on="process").collect() == [*range(200)]


def test_a_process_killed_from_outside_costs_no_item(ordered):
    victims = set()
    got = []
    with flow(range(300)).map(kit.pid, on="process", concurrency=2, ordered=ordered).open() as items:
        for n, number in enumerate(items):
            got.append(number)
            if n in (20, 120):
                victims.add(number)
                os.kill(number, signal.SIGKILL)
    assert len(got) == 300
    assert len(set(got) - victims) >= 1


def test_results_that_are_out_when_a_process_dies_are_not_given_twice():
    values, failures = kept(flow([0, 1, 2]).flat_map(kit.yields_then_dies, on="process", concurrency=1))
    assert values == [0, 0, 1, 2, 2]
    assert {item: type(error) for item, error in failures.items()} == {1: HostDied}


def test_what_nobody_wants_any_more_is_not_called_again_with_the_group_of_a_process_that_died(tmp_path):
    items = [(n, str(tmp_path / "calls")) for n in range(40)]
    _, error = outcome(flow(items).map(kit.dies_once_at_10_and_fails_at_11, on="process", concurrency=2))
    assert type(error) is kit.Boom
    called = [int(n) for n in (tmp_path / "calls").read_text().split()]
    assert max(called[called.index(11) :]) <= 12


@pytest.mark.parametrize("dies", [False, True])
def test_a_process_is_gone_when_it_has_ended_though_a_child_of_its_own_holds_its_socket(tmp_path, dies):
    path = tmp_path / "grandchild"
    started = time.perf_counter()
    try:
        chain = flow([(n, str(path), dies) for n in range(8)]).map(kit.forks_at_3, on="process", concurrency=2)
        assert chain.collect() == [*range(8)]
        assert time.perf_counter() - started < 4
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)


def test_processes_that_die_at_their_start_end_the_run(monkeypatch):
    from overlapped._engine.links import ProcessLink

    def launch(on_frame, on_gone):
        import asyncio

        return ProcessLink(asyncio.get_running_loop(), "process", "import os; os._exit(9)", on_frame, on_gone)

    monkeypatch.setattr(process, "launch", launch)
    _, error = outcome(flow(range(10)).map(kit.double, on="process"))
    assert type(error) is HostDied
    assert "exit code 9 before it was ready" in str(error)


def test_no_process_is_left_when_the_run_itself_is_killed(tmp_path):
    code = """
        import sys, time
        from overlapped import flow
        from tests.rules import process_kit as kit

        with flow(range(1000)).map(kit.pid, on="process", concurrency=2).open() as items:
            pids = {next(items) for _ in range(100)}
            print(*pids, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        run.kill()
    assert pids
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


@pytest.mark.skipif(sys.platform != "linux", reason="only its kernel ends a process with the one that started it")
def test_a_process_whose_call_keeps_the_interpreter_ends_with_its_run(tmp_path):
    path = tmp_path / "pid"
    code = f"""
        from overlapped import flow
        from tests.rules import process_kit as kit

        flow([{str(path)!r}]).map(kit.says_where_and_keeps_the_interpreter, on="process").collect()
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as run:
        try:
            wait_until(lambda: path.exists() and path.read_text().endswith("."))
        finally:
            run.terminate()
    pid = int(path.read_text()[:-1])
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


# -- the end, time-outs -----------------------------------------------------------------------------------


def test_a_break_leaves_no_process():
    for _ in flow(range(10_000)).map(kit.double, on="process"):
        break
    with flow(range(10_000)).map(kit.pid, on="process").open() as items:
        next(items)


def test_calls_that_nobody_wants_are_cancelled_and_not_waited_for():
    started = time.perf_counter()
    with flow([0.01, 30, 30, 30]).map(kit.naps, on="process", concurrency=2).open() as items:
        assert next(items) == 0.01
    assert time.perf_counter() - started < 5


def test_a_call_in_a_process_is_cancelled_at_its_time_out():
    started = time.perf_counter()
    values, failures = kept(flow([30.0, 0.01, 0.02]).map(kit.naps, on="process", concurrency=1, timeout_s=0.2))
    assert values == [0.01, 0.02]
    assert {item: type(error) for item, error in failures.items()} == {30.0: CallTimeout}
    assert time.perf_counter() - started < 5


def test_a_call_that_cannot_be_cancelled_loses_its_process(monkeypatch):
    monkeypatch.setattr(hosts, "CANCEL_S", 0.1)
    chain = flow([30.0, 0.01, 0.02]).map(kit.naps_through_signals, on="process", concurrency=1, timeout_s=0.2)
    values, failures = kept(chain)
    assert values == [0.01, 0.02]
    assert {item: type(error) for item, error in failures.items()} == {30.0: CallTimeout}


@pytest.mark.parametrize("how", ["keeps the interpreter", "is stopped"])
@pytest.mark.parametrize("fn", [kit.falls_silent_at_3, kit.afalls_silent_at_3])
def test_a_call_whose_process_can_say_nothing_is_timed_out_too(monkeypatch, fn, how):
    for name in ("CANCEL_S", "DEAF_S"):
        monkeypatch.setattr(hosts, name, 0.1)
    monkeypatch.setattr(hosts, "SILENT_S", 0.3)
    chain = flow([(n, how) for n in range(8)]).map(fn, on="process", concurrency=1, timeout_s=0.2)
    values, failures = kept(chain)
    assert values == [n for n in range(8) if n != 3]
    assert [type(error) for error in failures.values()] == [CallTimeout]


def test_nothing_is_called_for_an_empty_flow():
    assert flow(range(10)).map(kit.double, on="process").take(0).collect() == []
    assert flow([]).map(kit.double, on="process").collect() == []


# -- resources --------------------------------------------------------------------------------------------


def test_each_process_opens_and_closes_resources_of_its_own(tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    monkeypatch.setenv("CONNECTION_NOTES", str(notes))
    chain = flow(range(60)).map(kit.with_connection, on="process", concurrency=2).using(connection=kit.connect)
    pids = {pid for _, pid in chain.collect()}
    lines = [line.split() for line in notes.read_text().splitlines()]
    opened = [pid for what, pid in lines if what == "open"]
    assert sorted(opened) == sorted(pid for what, pid in lines if what == "close")
    assert {str(pid) for pid in pids} <= set(opened)
    assert str(os.getpid()) not in opened


def test_a_resource_that_cannot_be_opened_ends_the_run_before_the_source_is_pulled():
    pulled = []

    def source():
        pulled.append(1)
        yield 1

    chain = flow(source).map(kit.with_connection, on="process").using(connection=kit.cannot_connect)
    _, error = outcome(chain)
    assert type(error) is kit.Boom
    assert pulled == []


# -- what can be sent -------------------------------------------------------------------------------------


@pytest.fixture
def no_cloudpickle(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


def test_a_lambda_is_refused_when_written(no_cloudpickle):
    with pytest.raises(UsageError, match="at the top of a module, or install cloudpickle"):
        flow([1]).map(lambda n: n, on="process")


def test_a_function_in_a_function_is_refused_when_written(no_cloudpickle):
    def local(n):
        return n

    with pytest.raises(UsageError, match=r"map\(local, on=.process.\): local cannot be sent"):
        flow([1]).map(local, on="process")


def test_a_lambda_travels_with_cloudpickle():
    pytest.importorskip("cloudpickle")
    factor = 3
    assert flow(range(3)).map(lambda n: n * factor, on="process").collect() == [0, 3, 6]
    chain = flow(range(3)).map(kit.with_connection, on="process").using(connection=lambda: kit.Connection(os.devnull))
    assert [n for n, _ in chain.collect()] == [0, 1, 2]


def test_async_functions_of_tornado_are_refused_when_written():
    from tornado import gen

    @gen.coroutine
    def fn(n):
        yield gen.sleep(0)

    with pytest.raises(UsageError, match=r"write \.map\(fn\)"):
        flow([1]).map(fn, on="process")


def script(tmp_path, text: str, *args: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "job.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, *(args or [str(path)])], capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path
    )


def test_functions_classes_and_errors_of_a_script_travel(tmp_path):
    done = script(
        tmp_path,
        """
        from overlapped import flow

        class Point:
            def __init__(self, x): self.x = x

        class Odd(Exception): pass

        def move(p):
            if p.x == 3:
                raise Odd(p.x)
            return Point(p.x + 1)

        if __name__ == "__main__":
            print([p.x for p in flow([Point(1), Point(5)]).map(move, on="process")])
            try:
                flow([Point(3)]).map(move, on="process").run()
            except Odd as error:
                print("odd", error.args)
        """,
    )
    assert (done.stdout, done.stderr) == ("[2, 6]\nodd (3,)\n", "")


def test_functions_of_a_script_travel_on_to_the_processes_of_a_call(tmp_path):
    done = script(
        tmp_path,
        """
        from overlapped import flow

        def move(n): return n + 1

        def moved(n): return flow(range(n)).map(move, on="process", concurrency=1).collect()

        if __name__ == "__main__":
            print(flow([2, 3]).map(moved, on="process", concurrency=1).collect())
        """,
    )
    assert (done.stdout, done.stderr) == ("[[1, 2], [1, 2, 3]]\n", "")


@pytest.mark.parametrize("is_archive", [False, True], ids=["folder", "archive"])
def test_functions_of_a_folder_or_an_archive_that_is_run_travel(tmp_path, is_archive):
    app = tmp_path / "app"
    app.mkdir()
    (app / "steps.py").write_text("STEP = 1\n")
    text = """
        from overlapped import flow
        from steps import STEP

        def move(n): return n + STEP

        if __name__ == "__main__":
            print(flow([1, 2]).map(move, on="process").collect())
    """
    (app / "__main__.py").write_text(textwrap.dedent(text))
    if is_archive:
        zipapp.create_archive(app, tmp_path / "app.pyz")
    done = script(tmp_path, "", "app.pyz" if is_archive else "app")
    assert (done.stdout, done.stderr) == ("[2, 3]\n", "")


def test_a_module_run_by_name_travels(tmp_path):
    done = script(
        tmp_path,
        """
        from overlapped import flow

        def move(n): return n + 1

        if __name__ == "__main__":
            print(flow([1, 2]).map(move, on="process").collect())
        """,
        "-m",
        "job",
    )
    assert (done.stdout, done.stderr) == ("[2, 3]\n", "")


def test_a_script_that_starts_its_run_on_import_is_told_what_to_write(tmp_path):
    done = script(
        tmp_path,
        """
        from overlapped import flow

        def move(n): return n + 1

        print(flow([1, 2]).map(move, on="process").collect())
        """,
    )
    assert done.returncode == 1
    assert 'put the run under  if __name__ == "__main__":' in done.stderr


def test_a_function_typed_in_is_refused_without_cloudpickle(tmp_path):
    done = script(
        tmp_path,
        "",
        "-c",
        textwrap.dedent("""
        import sys
        sys.modules["cloudpickle"] = None
        from overlapped import flow, UsageError
        def move(n): return n + 1
        try:
            flow([1]).map(move, on="process")
        except UsageError as error:
            print(error)
        """),
    )
    assert "stands in a main module that has no file" in done.stdout


def test_a_function_whose_module_cannot_be_imported_there_ends_the_run(monkeypatch):
    import types

    module: Any = types.ModuleType("only_here")

    def fn(n):
        return n

    fn.__module__ = "only_here"
    fn.__qualname__ = "fn"
    module.fn = fn
    monkeypatch.setitem(sys.modules, "only_here", module)
    _, error = outcome(flow([1]).map(fn, on="process"))
    assert type(error) is ModuleNotFoundError


def test_standard_output_of_a_call_is_that_of_the_run(tmp_path):
    done = script(
        tmp_path,
        """
        from overlapped import flow

        if __name__ == "__main__":
            flow(["hello"]).map(print, on="process").run()
        """,
    )
    assert (done.stdout, done.stderr) == ("hello\n", "")


@pytest.mark.parametrize("fn", [kit.leaves_an_exit_handler, kit.aleaves_an_exit_handler])
def test_exit_handlers_of_a_process_run_to_their_end(fn, capfd):
    assert flow([1]).map(fn, on="process").collect() == [1]
    assert capfd.readouterr().out == "cleaned up\n"


@pytest.mark.slow
@pytest.mark.parametrize("fn", [kit.leaves_a_thread, kit.aleaves_a_thread, kit.leaves_a_task])
def test_what_a_call_leaves_behind_does_not_keep_its_process(fn, capfd):
    assert flow([1]).map(fn, on="process").collect() == [1]
    assert capfd.readouterr().out == "called\n"


# -- coroutine functions ----------------------------------------------------------------------------------


def test_coroutine_functions_run_there_many_at_once(way, ordered):
    values, error = outcome(flow(range(500)).map(kit.adouble, on="process", ordered=ordered), way)
    assert error is None
    assert sorted(values) == [2 * n for n in range(500)]
    assert not ordered or values == sorted(values)


def test_every_verb_awaits_there(ordered):
    options = {"on": "process", "ordered": ordered, "concurrency": 6}
    chain = flow(range(20)).filter(kit.aodd, **options).tap(kit.adouble, **options).flat_map(kit.aseveral, **options)
    assert sorted(chain.collect()) == sorted(n for n in range(1, 20, 2) for _ in range(n))
    assert flow(range(9)).flat_map(kit.alisted, **options).take(0).collect() == []


def most_at_once(spans):
    edges = sorted([(start, 1) for _, start, _ in spans] + [(end, -1) for _, _, end in spans])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


@pytest.mark.parametrize("concurrency", [1, 30])
def test_the_limit_is_divided_among_the_processes(concurrency):
    items = [0.01] * (20 * concurrency)
    spans = flow(items).map(kit.naps_awaiting, on="process", concurrency=concurrency).collect()
    assert most_at_once(spans) <= concurrency
    assert most_at_once(spans) > concurrency * 0.6
    pids = {pid for pid, _, _ in spans}
    assert 1 <= len(pids) <= min(concurrency, len(os.sched_getaffinity(0)))


def test_a_changing_limit_loses_no_item(ordered):
    spec = Limits(*[20] * 30, 1, *[1] * 10, 15, *[15] * 20, 3)
    chain = flow([0.002] * 300).map(kit.naps_awaiting, on="process", concurrency=spec, ordered=ordered)
    assert len(chain.collect()) == 300


def test_a_coroutine_is_cancelled_there_at_its_time_out(tmp_path):
    path = tmp_path / "said"
    values, failures = kept(flow([(30.0, str(path)), (0.01, "")]).map(kit.naps_and_says, on="process", timeout_s=0.2))
    assert values == [None]
    assert [type(error) for error in failures.values()] == [CallTimeout]
    wait_until(lambda: path.exists() and path.read_text() == "cancelled")


def test_coroutines_that_nobody_wants_are_cancelled_there(tmp_path):
    started = time.perf_counter()
    paths = [tmp_path / str(n) for n in range(3)]
    items = [(0.05, ""), *((30.0, str(path)) for path in paths)]
    with flow(items).map(kit.naps_and_says, on="process", concurrency=8).open() as results:
        assert next(results) is None
    assert time.perf_counter() - started < 5
    assert all(path.read_text() == "cancelled" for path in paths)


def test_a_coroutine_that_kills_its_process_is_one_failure_among_many():
    values, failures = kept(flow(range(200)).map(kit.dies_awaiting_at_7, on="process", concurrency=100))
    assert values == [n for n in range(200) if n != 7]
    assert {item: type(error) for item, error in failures.items()} == {7: HostDied}


def test_the_error_of_a_coroutine_comes_out_as_itself():
    values, error = outcome(flow(range(10)).map(kit.fails_awaiting_at_3, on="process"))
    assert values == [0, 1, 2]
    assert type(error) is kit.Boom
    assert isinstance(error.__cause__, RemoteError)
    assert "in fails_awaiting_at_3" in error.__cause__.text


def test_a_resource_of_the_loop_is_opened_on_the_loop_of_each_process():
    chain = flow(range(60)).map(kit.with_session, on="process", concurrency=8).using(session=kit.Session)
    pids = {pid for _, pid in chain.collect()}
    assert os.getpid() not in pids


# -- seams ------------------------------------------------------------------------------------------------


def test_a_cancellation_never_cuts_a_frame_in_two():
    """The signal comes while a generator's results are being sent: half a frame would be the end of the wire."""
    from overlapped._engine.parcels import main_origin, pack_function
    from overlapped._engine.serving import Task
    from overlapped._engine.single import OneByOne

    sent: list[str] = []

    class Wire:
        def send(self, about, values=b""):
            host._take(["cancel", 7], memoryview(b""), threading.get_ident())
            host._interrupt(signal.SIGUSR1, None)
            sent.append(about[0])

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        work = Work(pack_function(kit.many, "", ""), (), "many", "flat_map", "generator", True, main_origin(), [])
        host = OneByOne(Wire(), Task(work), "process")  # type: ignore[arg-type]  # all that is used of a wire
        assert host._make((7, 0.0), 5000, {}) == (END, None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sent == ["done"]


def test_a_job_that_begins_while_it_is_looked_for_stops_no_process():
    """The thread that listens looks through the jobs from which the main thread takes one."""
    from overlapped._engine.parcels import main_origin, pack_function
    from overlapped._engine.serving import Task
    from overlapped._engine.single import OneByOne

    class Begun(tuple[int, object]):
        __slots__ = ()

        def __getitem__(self, at):
            host.jobs.popleft()
            return super().__getitem__(at)

    sent: list[object] = []

    class Wire:
        def send(self, about, values=b""):
            sent.append(about)

    work = Work(pack_function(kit.double, "", ""), (), "double", "map", "plain", False, main_origin(), [])
    host = OneByOne(Wire(), Task(work), "process")  # type: ignore[arg-type]  # all that is used of a wire
    host.jobs.extend([Begun((5, "a")), (6, "b"), (7, "c"), (8, "d")])
    host._take(["cancel", 7], memoryview(b""), threading.get_ident())
    assert sent == [["back", [6, 7, 8]]]


def test_a_process_that_still_opens_its_resources_at_the_end_of_a_run_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "GRACE_S", 0.2)
    connection = kit.OpensOnce(tmp_path)
    items = [(n, connection.path) for n in range(20)]
    assert flow(items).using(connection=connection).map(kit.with_path, on="process").collect() == [*range(20)]


def test_a_process_killed_while_it_opens_resources_is_replaced(tmp_path):
    items = [(n, str(tmp_path / "died")) for n in range(20)]
    chain = flow(items).map(kit.with_path, on="process", concurrency=1).using(connection=kit.DiesOnce(tmp_path))
    assert chain.collect() == [*range(20)]


def test_of_large_items_few_lie_ready():
    """Hundreds of short calls may lie ready in a process, but not hundreds of megabytes."""
    pulled = Pulled(3000)
    chain = flow(pulled.items).map(kit.to_megabyte, on="process", concurrency=2)
    with chain.open() as items:
        for _ in range(40):
            next(items)
        assert rest(lambda: pulled.count) - 40 <= 2 * cap(2) + 4
