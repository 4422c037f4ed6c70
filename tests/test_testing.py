"""The test kit: exact virtual time, a service whose best is known, and contracts that catch the guilty."""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from dataclasses import dataclass

import pytest

import overlapped.testing as kit
from overlapped.control.auto import AUTO
from overlapped.control.base import Sample
from overlapped.control.fixed import Fixed
from overlapped.errors import Overloaded, UsageError
from overlapped.sinks.jsonl import Jsonl
from overlapped.sinks.sqlite import Sqlite
from overlapped.testing import (
    Deadlock,
    Gauge,
    Service,
    ServiceFailed,
    VirtualLoop,
    check_controller,
    check_sink,
    run,
    virtual,
)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def outcome(call) -> object:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return type(error)


# -- virtual clock ------------------------------------------------------------------------------------


@virtual
async def test_virtual_time_adds_up_exactly():
    assert now_s() == 0.0
    for _ in range(3):
        await asyncio.sleep(0.1)
    assert now_s() == 0.3
    await asyncio.gather(asyncio.sleep(0.7), asyncio.sleep(5), asyncio.sleep(0))
    assert now_s() == 5.3
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(3600), 60)
    assert now_s() == 65.3


@virtual
async def test_virtual_timers_fire_in_the_order_of_their_times():
    order: list[str] = []

    async def at(delay_s: float, name: str) -> None:
        await asyncio.sleep(delay_s)
        order.append(name)

    await asyncio.gather(at(2e-9, "c"), at(1e-9, "b"), at(0, "a"), at(1e-6, "d"))
    assert order == ["a", "b", "c", "d"]
    assert now_s() == 1e-6


@pytest.mark.parametrize("remainder", [1e-6, 1e-9, 4e-10, 1e-12, 1e-17, 5e-324])
def test_waiting_for_any_remainder_ends(remainder):
    async def wait() -> int:
        await asyncio.sleep(0.1)
        until = max(0.1 + remainder, math.nextafter(0.1, 1))
        turns = 0
        while (left := until - now_s()) > 0:
            await asyncio.sleep(left)
            turns += 1
        return turns

    assert run(wait()) <= 2


@virtual
async def test_waiting_for_every_tick_of_a_rate_ends():
    until = 0.0
    for _ in range(1_000):
        until += 1 / 3e4
        while now_s() < until:
            await asyncio.sleep(until - now_s())
    assert now_s() == pytest.approx(until, abs=1e-8)


@virtual
async def test_the_run_finds_the_virtual_clock_on_the_loop():
    clock = getattr(asyncio.get_running_loop(), "overlapped_clock")  # noqa: B009 - as the engine asks
    await asyncio.sleep(2)
    assert clock() == 2.0
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)


@virtual
async def test_callbacks_from_the_same_thread_run():
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    loop.call_soon_threadsafe(called.set_result, 7)
    assert await called == 7


def test_run_gives_the_result_or_the_exception():
    async def seven() -> int:
        return 7

    async def fail() -> None:
        raise KeyError("x")

    assert run(seven()) == 7
    with pytest.raises(KeyError):
        run(fail())


def test_every_run_starts_at_zero():
    async def spend() -> tuple[float, float]:
        before = now_s()
        await asyncio.sleep(5)
        return before, now_s()

    assert run(spend()) == run(spend()) == (0.0, 5.0)


def test_tasks_left_behind_are_cancelled_and_fail_the_test():
    ended: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def lasting() -> None:
        try:
            await asyncio.sleep(math.inf)
        finally:
            ended.append("cancelled")

    async def leave() -> None:
        tasks.append(asyncio.create_task(lasting(), name="the lasting one"))
        await asyncio.sleep(1)

    with pytest.raises(AssertionError, match=r"left behind:\nthe lasting one .*lasting.* at .*test_testing.py:"):
        run(leave())
    assert ended == ["cancelled"]


def test_what_only_the_exception_handler_hears_fails_the_test(loop_errors):
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(AssertionError, match="exception handler was called:\n.*ZeroDivisionError"):
        run(main())


def run_bare(main) -> object:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@pytest.mark.parametrize("runs", [run, run_bare])
def test_a_deadlock_says_who_waits_where(runs):
    async def inner() -> None:
        await asyncio.get_running_loop().create_future()

    async def stuck() -> None:
        await inner()

    async def main() -> None:
        tasks = [asyncio.create_task(stuck(), name="the stuck one"), asyncio.create_task(asyncio.sleep(math.inf))]
        await asyncio.gather(*tasks)

    with pytest.raises(Deadlock, match="nothing can happen any more") as caught:
        runs(main())
    message = str(caught.value)
    lines = {code.co_name: code.co_firstlineno + 1 for code in (inner.__code__, stuck.__code__)}
    assert f"waiting: the stuck one ({stuck.__qualname__}) at {__file__}:{lines['stuck']} > " in message
    assert f" > {__file__}:{lines['inner']}" in message
    assert message.count("waiting:") == 3


def test_a_deadlock_is_told_from_a_wait_of_a_year():
    async def main() -> float:
        await asyncio.sleep(366 * 86_400)
        return now_s()

    assert run(main()) == 366 * 86_400


@virtual
async def test_late_in_a_long_run_every_delay_still_ends():
    await asyncio.sleep(1e9)
    for delay_s in (1e-9, 1e-7, 1e-3, 1):
        await asyncio.sleep(delay_s)
    until = math.nextafter(now_s(), math.inf)
    while (left := until - now_s()) > 0:
        await asyncio.sleep(left)
    assert now_s() == pytest.approx(1e9 + 1.001, abs=1e-6)


@virtual
async def test_what_needs_the_outside_world_is_refused_and_the_error_says_what_to_do():
    loop = asyncio.get_running_loop()
    for ask in (
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.start_server(print, "localhost"),
        lambda: loop.getaddrinfo("localhost", 1),
    ):
        with pytest.raises(NotImplementedError, match="on a virtual loop.*test what uses them with asyncio.run"):
            await ask()
    with pytest.raises(NotImplementedError, match=r"add_signal_handler\(\) on a virtual loop"):
        loop.add_signal_handler(2, print)
    with pytest.raises(NotImplementedError, match=r"add_reader\(\) on a virtual loop"):
        loop.add_reader(0, print)


@virtual
async def test_a_call_from_another_thread_is_refused_in_that_thread():
    loop = asyncio.get_running_loop()
    errors: list[RuntimeError] = []

    def call() -> None:
        try:
            loop.call_soon_threadsafe(errors.clear)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="the other one")
    thread.start()
    thread.join()
    await asyncio.sleep(1)
    assert len(errors) == 1
    assert "another thread (the other one)" in str(errors[0])


def test_a_virtual_loop_goes_with_debug_mode_and_async_generators():
    closed: list[int] = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            closed.append(1)

    async def main() -> None:
        async for _ in numbers():
            break
        await asyncio.sleep(1)

    with asyncio.Runner(loop_factory=VirtualLoop, debug=True) as runner:
        runner.run(main())
    assert closed == [1]


def test_virtual_passes_arguments_and_the_name_on():
    @virtual
    async def add(a: int, *, b: int) -> int:
        return a + b

    assert add(1, b=2) == 3
    assert add.__name__ == "add"


@pytest.mark.parametrize("a", [1, 2])
@virtual
async def test_virtual_goes_with_fixtures_and_parameters(a, tmp_path):
    await asyncio.sleep(a)
    assert now_s() == a
    assert tmp_path.is_dir()


def test_all_names_of_the_kit_exist():
    for name in kit.__all__:
        assert getattr(kit, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        getattr(kit, "no_such")  # noqa: B009 - a type checker knows better


# -- gauge --------------------------------------------------------------------------------------------


@virtual
async def test_a_gauge_counts_coroutines():
    gauge = Gauge()

    async def inside(delay_s: float) -> None:
        with gauge:
            await asyncio.sleep(delay_s)

    tasks = [asyncio.create_task(inside(n)) for n in (1, 2, 3)]
    await asyncio.sleep(1.5)
    assert (gauge.now, gauge.peak, gauge.total) == (2, 3, 3)
    await asyncio.gather(*tasks)
    assert (gauge.now, gauge.peak, gauge.total) == (0, 3, 3)
    assert repr(gauge) == "<Gauge now=0 peak=3 total=3>"


def test_a_gauge_counts_threads_and_loses_none():
    gauge = Gauge()
    everyone = threading.Barrier(8)

    def inside() -> None:
        with gauge:
            everyone.wait(10)
        for _ in range(2_000):
            with gauge:
                pass

    threads = [threading.Thread(target=inside) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (gauge.now, gauge.peak, gauge.total) == (0, 8, 8 * 2_001)


def test_a_gauge_lets_exceptions_through():
    gauge = Gauge()
    with suppress(KeyError), gauge:
        raise KeyError
    assert gauge.now == 0


# -- service ------------------------------------------------------------------------------------------


@virtual
async def test_a_service_takes_first_come_first_served_and_as_long_as_computed():
    service = Service(service_s=0.1, workers=2)
    ended: list[tuple[int, float]] = []

    async def call(n: int) -> None:
        assert await service(n) == n
        ended.append((n, now_s()))

    await asyncio.gather(*(call(n) for n in range(5)))
    assert ended == [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.2), (4, 0.3)]
    assert (service.calls, service.ok, service.in_flight, service.peak_in_flight) == (5, 5, 0, 5)
    assert list(service.started_s) == [0.0] * 5
    assert service.best_throughput_per_s() == 20
    assert service.best_in_flight() == 2


@virtual
async def test_a_service_refuses_more_than_it_lets_in():
    service = Service(max_in_flight=2)
    outcomes = await asyncio.gather(*(outcome(service(n)) for n in range(3)))
    assert outcomes == [0, 1, Overloaded]
    assert (service.refused, service.peak_in_flight, service.calls) == (1, 2, 3)
    assert await service(3) == 3


@virtual
async def test_a_client_that_obeys_retry_after_gets_exactly_the_rate():
    service = Service(service_s=0, rate_per_s=30)

    async def insist(n: int) -> None:
        while True:
            try:
                await service(n)
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_s or 0)
            else:
                return

    for n in range(301):
        await insist(n)
    assert now_s() == pytest.approx(10, abs=1e-6)
    assert service.refused == 300
    assert service.attempts(300) == 2


@virtual
async def test_a_burst_may_come_at_once_and_no_more():
    service = Service(service_s=1, rate_per_s=10, burst=3)
    outcomes = await asyncio.gather(*(outcome(service(n)) for n in range(5)))
    assert outcomes == [0, 1, 2, Overloaded, Overloaded]
    assert service.best_throughput_per_s() == 10
    assert service.best_in_flight() == 10


@virtual
async def test_a_service_fails_the_calls_it_was_told_to():
    numbered = Service(fails={1, 3})
    assert [await outcome(numbered(n)) for n in "abcd"] == [ServiceFailed, "b", ServiceFailed, "d"]
    assert (numbered.failed, numbered.ok) == (2, 2)
    by_item = Service(fails=lambda item: KeyError(item) if item == "b" else None, returns=str.upper)
    assert [await outcome(by_item(n)) for n in "abc"] == ["A", KeyError, "C"]
    assert now_s() == 0.7  # a failure takes as long as a success


def test_a_share_of_failures_repeats_with_its_seed():
    async def failed(seed: int) -> list[bool]:
        service = Service(fails=0.3, seed=seed)
        return [await outcome(service(n)) is ServiceFailed for n in range(1_000)]

    assert run(failed(1)) == run(failed(1)) != run(failed(2))
    assert 250 < sum(run(failed(1))) < 350


@virtual
async def test_a_cancelled_caller_gives_its_place_back_whether_waiting_or_worked_on():
    service = Service(service_s=1, workers=1)
    tasks = [asyncio.create_task(service(n)) for n in range(4)]
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    tasks[1].cancel()  # in line: the worker that is free now must go to the third, not to it
    await asyncio.sleep(1.25)
    assert tasks[2].result() == 2
    assert await tasks[3] == 3
    assert now_s() == 2.5
    assert (service.cancelled, service.in_flight) == (2, 0)


@virtual
async def test_a_turn_given_to_a_caller_cancelled_in_the_same_moment_is_passed_on():
    service = Service(service_s=1, workers=1)
    tasks = [asyncio.create_task(service(n)) for n in range(3)]
    await asyncio.sleep(0.5)
    # tasks[0] ends at 1.0 and hands its worker to tasks[1]; its callback cancels tasks[1] before it has run
    tasks[0].add_done_callback(lambda _: tasks[1].cancel())
    assert await tasks[2] == 2
    assert now_s() == 2.0
    assert tasks[1].cancelled()


@virtual
async def test_service_time_may_depend_on_the_item():
    service = Service(service_s=lambda item: item / 10, workers=1)
    assert math.isnan(service.mean_service_s())
    await asyncio.gather(service(1), service(3))
    assert now_s() == 0.4
    assert service.mean_service_s() == 0.2
    assert service.best_throughput_per_s() == 5


@virtual
async def test_attempts_are_counted_for_every_item():
    service = Service()
    await asyncio.gather(service("a"), service("a"), service(["unhashable"]))
    assert [service.attempts(item) for item in ("a", ["unhashable"], "b")] == [2, 1, 0]


def test_a_service_without_limits_has_no_best():
    service = Service(service_s=0)
    assert service.best_throughput_per_s() == math.inf
    assert service.best_in_flight() == math.inf


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "workers"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"burst": 0}, "burst"),
        ({"rate_per_s": 0}, "rate_per_s"),
        ({"fails": 1.5}, "fails"),
        ({"service_s": -1}, "service_s"),
        ({"service_s": math.nan}, "service_s"),
    ],
)
def test_a_service_refuses_wrong_numbers(options, says):
    with pytest.raises(UsageError, match=says):
        Service(**options)


def test_a_service_works_again_on_another_loop():
    service = Service(service_s=1, workers=1)

    async def three() -> float:
        await asyncio.gather(*(service(n) for n in range(3)))
        return now_s()

    assert run(three()) == run(three()) == 3.0


# -- contracts ----------------------------------------------------------------------------------------


def read_jsonl(folder) -> list[object]:
    return [json.loads(line) for line in (folder / "out").read_bytes().splitlines()]


def read_sqlite(folder) -> list[object]:
    with closing(sqlite3.connect(folder / "out")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM items ORDER BY rowid")]


def test_our_sinks_keep_the_contract():
    check_sink(lambda folder: Jsonl(folder / "out"), read_jsonl)
    check_sink(lambda folder: Jsonl(folder / "out", if_exists="append"), read_jsonl, items=[1, "b", None])
    check_sink(lambda folder: Sqlite(folder / "out"), read_sqlite)


class BadWriter:
    """A writer of JSON lines, but for one fault."""

    def __init__(self, path, fault: str) -> None:
        self.fault = fault
        self.inner = Jsonl(path).open()
        self.held: list[object] = []

    def write(self, items) -> dict[int, Exception]:
        if self.fault == "late":
            self.held.extend(items)
            return {}
        if self.fault == "whole batch":
            refused = self.inner.write([])
            for index, item in enumerate(items):
                if type(item) is object:
                    return {index: TypeError("object")}
            return refused | self.inner.write(items)
        refused = self.inner.write(items)
        if self.fault == "silent":
            return {}
        if self.fault == "nameless":
            return dict.fromkeys(refused, TypeError("no"))
        return refused

    def close(self, ok: bool) -> None:
        if self.fault == "late" and ok:
            self.inner.write(self.held)
        if self.fault == "open":
            BadSink.leaks.append(open(self.inner._file.name, "rb"))  # noqa: SIM115 - the fault
        self.inner.close(ok)


@dataclass(frozen=True)
class BadSink:
    path: object
    fault: str
    leaks = []  # type: ignore[var-annotated]  # noqa: RUF012 - closed by the test

    def describe(self) -> str:
        return "two\nlines" if self.fault == "description" else "BadSink"

    def open(self) -> BadWriter:
        return BadWriter(self.path, self.fault)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("late", "what was written stays when the run fails"),
        ("whole batch", "good items stay"),
        ("silent", r"must refuse exactly \[0\]"),
        ("nameless", "must name the item's type object"),
        ("open", "left open after close"),
        ("description", "one line"),
    ],
)
def test_check_sink_catches(fault, says):
    with pytest.raises(AssertionError, match=says):
        check_sink(lambda folder: BadSink(folder / "out", fault), read_jsonl)
    while BadSink.leaks:
        BadSink.leaks.pop().close()


def test_check_sink_passes_the_same_sink_without_its_fault():
    check_sink(lambda folder: BadSink(folder / "out", ""), read_jsonl)


def test_our_controllers_keep_the_contract():
    check_controller(lambda: Fixed(1), most=1)
    check_controller(lambda: Fixed(64), most=64)
    check_controller(lambda: AUTO)
    check_controller(lambda: AUTO(max=20), most=20)


class BadController:
    """Additive increase, multiplicative decrease, and one fault."""

    shared = 0

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.exact = 4.0

    @property
    def limit(self) -> int:
        return int(self.exact) if self.fault != "float" else self.exact  # type: ignore[return-value]  # the fault

    @property
    def reason(self) -> str:
        return "" if self.fault == "reason" else "aimd"

    def finished(self, sample: Sample) -> int:
        if sample.outcome == "drop":
            self.exact = self.exact / 2 if self.fault == "zero" else max(1.0, self.exact / 2)
        elif sample.binding or self.fault == "binding":
            BadController.shared += self.fault == "shared"
            most = 10_000 if self.fault == "most" else 100
            self.exact = min(most, self.exact + 0.25 + BadController.shared % 7)
        return 5 if self.fault == "answer" else self.limit


@dataclass(frozen=True)
class BadSpec:
    fault: str

    def controller(self) -> BadController:
        return BadController(self.fault)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("zero", "below 1 makes no progress"),
        ("most", "above the most allowed, 100"),
        ("float", "must be an int"),
        ("reason", "has no reason"),
        ("binding", "not binding"),
        ("shared", "differ in"),
        ("answer", "finished.. returned 5"),
    ],
)
def test_check_controller_catches(fault, says):
    BadController.shared = 0
    with pytest.raises((AssertionError, ZeroDivisionError), match=says):
        check_controller(lambda: BadSpec(fault), most=100)


def test_check_controller_passes_the_same_controller_without_its_fault():
    check_controller(lambda: BadSpec(""), most=100)


def test_contracts_hold_under_python_without_asserts():
    code = """
from overlapped.testing import check_controller
from overlapped.control.fixed import Fixed
try:
    check_controller(lambda: Fixed(5), most=4)
except AssertionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert "above the most allowed" in done.stdout, done.stderr
