"""The verdict: for each bottleneck a flow that has exactly that one, and for each promised factor the change made."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from typing import Any

import pytest

from overlapped import Overloaded, Rate, Retry, flow
from overlapped.record import RunRecord, Stall, Times
from overlapped.report.verdict import Finding, verdict
from overlapped.testing import virtual
from overlapped.testing.scenarios import FakeServer
from tests.test_ledger import sleeper
from tests.test_report import make_record, make_stage


async def record_of(flow_: Any, **options: Any) -> RunRecord:
    return (await flow_.arun(**options)).record  # type: ignore[no-any-return]


async def main_of(flow_: Any, **options: Any) -> Finding:
    return verdict(await record_of(flow_, **options))[0]


def kinds(record: RunRecord) -> list[str]:
    return [finding.kind for finding in verdict(record)]


# -- on the virtual clock ------------------------------------------------------------------------------------


@virtual
async def test_a_slow_service_is_named_and_more_calls_at_once_are_not_advised():
    server = FakeServer(lambda server, item: server.random.uniform(0.03, 0.07), workers=16)
    chain = flow(range(8_000)).map(sleeper(0.005), name="look_up").map(server).map(sleeper(0.001), name="save")
    found = await main_of(chain)
    assert (found.kind, found.stage) == ("service", "server")
    assert found.advice == "a faster service, or fewer or smaller calls (batches)"
    assert "this machine" not in found.says  # on a virtual clock nothing is known of the CPU


@virtual
async def test_a_limit_that_was_given_is_named_with_what_is_gained_at_most():
    chain = flow(range(600)).map(sleeper(0.02), concurrency=4).map(sleeper(0.1), concurrency=2, name="slow")
    found = await main_of(chain.map(sleeper(0.01), concurrency=1))
    assert (found.kind, found.stage) == ("limit", "slow")
    assert "concurrency=2 was given" in found.advice
    assert found.factor == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("slots", [(2, 4, 1), (1, 8, 3), (3, 3, 9)])
def test_the_most_that_a_higher_limit_gains_is_what_it_gains_when_it_is_made(slots):
    @virtual
    async def measured() -> None:
        slow, before, after = slots

        def chain(limit: int) -> Any:
            first = flow(range(1_500)).map(sleeper(0.02), concurrency=before)
            return first.map(sleeper(0.2), concurrency=limit).map(sleeper(0.01), concurrency=after)

        record = await record_of(chain(slow))
        found = verdict(record)[0]
        better = await record_of(chain(200 * slow))
        assert found.kind == "limit"
        assert record.elapsed_s / better.elapsed_s == pytest.approx(found.factor, rel=0.1)

    measured()


@virtual
async def test_a_slow_source_is_named_and_nothing_is_advised_of_the_stages():
    async def slow_lines():
        for number in range(200):
            await asyncio.sleep(0.1)
            yield number

    found = await main_of(flow(slow_lines()).map(sleeper(0.05)).map(sleeper(0.01)))
    assert (found.kind, found.stage) == ("source", "")
    assert "slow_lines" in found.says
    assert found.advice == "a faster source; more concurrency would not help"


@virtual
async def test_a_slow_consumer_is_named_with_what_is_gained_when_its_work_is_a_stage():
    async def in_the_loop() -> RunRecord:
        async with flow(range(300)).map(sleeper(0.08), concurrency=4).open() as items:
            async for _ in items:
                await asyncio.sleep(0.1)
        return items.report.record

    record = await in_the_loop()
    found = verdict(record)[0]
    assert found.kind == "consumer"
    assert "stage of its own" in found.advice
    stage = flow(range(300)).map(sleeper(0.08), concurrency=4).map(sleeper(0.1), concurrency=50)
    better = await record_of(stage)
    assert record.elapsed_s / better.elapsed_s == pytest.approx(found.factor, rel=0.1)


@virtual
async def test_the_rate_that_was_given_is_named():
    found = await main_of(flow(range(300)).map(sleeper(0.05), rate=Rate(20, per_s=1), name="fetch"))
    assert (found.kind, found.stage) == ("rate", "fetch")
    assert "higher Rate" in found.advice


@virtual
async def test_the_rate_that_a_service_allows_is_named_with_its_number():
    server = FakeServer(lambda server, item: 0.05, rate_per_s=50, burst=5)
    found = await main_of(flow(range(3_000)).map(server, retry=Retry(attempts=1_000, base_s=0.05, cap_s=1)))
    assert (found.kind, found.stage) == ("pace", "server")
    assert float(found.says.split("about ")[1].split()[0]) == pytest.approx(50, rel=0.15)


@virtual
async def test_pauses_that_a_service_asks_for_are_named():
    calls: list[int] = []

    async def call(item: int) -> int:
        calls.append(item)
        await asyncio.sleep(0.01)
        if len(calls) % 40 == 0:
            raise Overloaded("429", retry_after_s=5)
        return item

    found = await main_of(flow(range(200)).map(call, concurrency=4, retry=Retry(attempts=9)))
    assert (found.kind, found.stage) == ("retry-after", "call")
    assert "20 s of" in found.says or "25 s of" in found.says


@virtual
async def test_one_key_that_most_items_belong_to_is_named():
    chain = flow(range(400)).map(sleeper(0.05), concurrency=20, key=lambda item: item % 10 == 0, per_key=1, name="host")
    found = await main_of(chain)
    assert (found.kind, found.stage) == ("key", "host")
    assert "per_key" in found.advice


@virtual
async def test_attempts_that_wait_in_their_slots_are_named():
    async def call(item: int) -> int:
        await asyncio.sleep(0.01)
        raise ConnectionError(item)

    chain = flow(range(60)).map(call, concurrency=2, retry=Retry(attempts=3, base_s=0.4, jitter=False))
    found = await main_of(chain, on_failure="keep")
    assert (found.kind, found.stage) == ("retry", "call")


@virtual
async def test_waiting_for_the_order_is_named_and_its_factor_is_what_leaving_it_out_gains():
    late = sleeper(lambda item: 2.0 if item % 50 == 0 else 0.02)

    def chain(ordered: bool) -> Any:
        return flow(range(2_000)).map(late, concurrency=8, ordered=ordered, name="fetch")

    record = await record_of(chain(ordered=True))
    found = verdict(record)[0]
    assert (found.kind, found.stage) == ("order", "fetch")
    assert found.advice.startswith("ordered=False")
    better = await record_of(chain(ordered=False))
    assert record.elapsed_s / better.elapsed_s == pytest.approx(found.factor, rel=0.1)
    assert "order" not in kinds(better)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_items_are_said_to_be_too_few(count):
    @virtual
    async def said() -> None:
        found = await main_of(flow(range(count)).map(sleeper(lambda item: 0.1 + item / 100)).map(sleeper(0.05)))
        assert found.kind in ("few", "straggler")
        assert found.advice in ("", "start it first, or split it")

    said()


@virtual
async def test_one_call_that_takes_most_of_the_run_is_named():
    found = await main_of(flow(range(500)).map(sleeper(lambda item: 30.0 if item == 400 else 0.1), concurrency=50))
    assert (found.kind, found.stage) == ("straggler", "work")
    assert "30 s of the run's" in found.says


@virtual
async def test_where_two_stages_are_alike_neither_alone_is_blamed():
    chain = flow(range(500)).map(sleeper(0.05), concurrency=2, name="one").map(sleeper(0.05), concurrency=2, name="two")
    found = await main_of(chain)
    assert found.kind == "none"
    assert "one" in found.says
    assert "two" in found.says
    assert found.factor == 0


@virtual
async def test_where_nothing_stands_out_that_is_said():
    async def coming():
        for number in range(200):
            if number % 40 == 0:
                await asyncio.sleep(2)
            yield number

    record = await record_of(flow(coming()).map(sleeper(0.1), concurrency=2))
    found = verdict(record)[0]
    assert found.kind == "none"
    assert found.says == "no single part: none was busy most of the time"
    assert found.advice == ""


def test_a_run_without_calls_has_no_verdict():
    assert verdict(make_record(stages=())) == []
    assert verdict(flow([]).map(len).run().record) == []


# -- in real time: threads, processes, sinks, the loop ------------------------------------------------------------


class SlowSink:
    """A sink whose writes take their time."""

    def describe(self) -> str:
        return "SlowSink"

    def check(self) -> None:
        pass

    def open(self) -> Any:
        return self

    def write(self, rows: list[object]) -> dict[int, Exception]:
        time.sleep(0.0005 * len(rows))
        return {}

    def close(self, ok: bool) -> None:
        pass


@pytest.mark.slow
def test_a_slow_sink_is_named():
    found = verdict(flow(range(2_000)).map(sleeper(0.001)).to(SlowSink()).run().record)[0]
    assert (found.kind, found.stage) == ("sink", "SlowSink")


@pytest.mark.slow
def test_calls_that_timed_out_and_run_on_are_named():
    gate = threading.Event()
    seen: list[int] = []

    def stuck(item: int) -> int:
        seen.append(item)
        if item < 2:
            gate.wait(10)
        if len(seen) == 30:
            gate.set()
        time.sleep(0.02)
        return item

    record = flow(range(30)).map(stuck, concurrency=3, on="thread", timeout_s=0.1).run(on_failure="keep").record
    found = verdict(record)[0]
    assert (found.kind, found.stage) == ("lost", "stuck")
    assert "time-out of its own" in found.advice


@pytest.mark.slow
def test_a_call_that_waits_on_the_loop_is_named_with_its_line_and_threads_are_advised():
    async def parse(item: int) -> int:
        time.sleep(0.12)
        return item

    found = verdict(flow(range(12)).map(parse, concurrency=4).run().record)[0]
    if found.kind != "stalls":  # a machine so busy that the watcher could not look: then nothing may be claimed
        assert found.kind in ("few", "none", "straggler")
        return
    assert "test_verdict.py" in found.says
    assert "time.sleep(0.12)" in found.says
    assert "threads" in found.advice


def compute(item: int) -> int:
    until = time.thread_time() + 0.004
    while time.thread_time() < until:
        item += 1
    return item


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"on": "thread", "concurrency": 4}, {}])
def test_plain_functions_that_compute_in_threads_are_sent_to_processes(options):
    record = flow(range(250)).map(compute, **options).run().record
    found = verdict(record)[0]
    if record.cpus > 1 and found.kind == "gil":
        assert found.advice.startswith('.map(compute, on="process")')
    else:  # the machine gave this process too little of a core to tell
        assert record.cpu_s + record.stages[0].cpu_wait_s < 0.85 * record.elapsed_s
    assert "not this machine" not in found.says


@pytest.mark.slow
def test_a_process_lane_that_is_short_of_items_is_said_to_be():
    started = threading.Event()

    async def trickle():
        yield 0
        while not started.is_set():  # on a busy machine it takes a second or two to start a process
            await asyncio.sleep(0.01)
        for number in range(100):
            await asyncio.sleep(0.02)
            yield number

    record = flow(trickle()).map(abs, on="process").tap(lambda _: started.set(), on="inline").run().record
    assert "source" in kinds(record)
    assert "idle processes" in kinds(record)
    assert record.stages[0].cpu_s is not None


# -- from records: what needs a machine of a certain kind ----------------------------------------------------------


def busy(**changes: Any) -> RunRecord:
    stage = {"times": Times(full_s=2.0)} | changes.pop("stage", {})
    return make_record(stages=(make_stage(**stage),), cpus=4, **changes)


def test_python_code_in_threads_is_told_from_code_that_lets_others_run():
    threads = {"lane": "thread", "reason": "fixed", "limit": 8}
    one = verdict(busy(cpu_s=1.95, loop_cpu_s=0.1, stage=threads | {"cpu_s": 1.8}))[0]
    assert one.kind == "gil"
    assert "4 CPUs" in one.advice
    many = verdict(busy(cpu_s=7.6, loop_cpu_s=0.1, stage=threads | {"cpu_s": 7.4}))[0]
    assert many.kind == "cpus"
    some = verdict(busy(cpu_s=4.0, loop_cpu_s=0.1, stage=threads | {"cpu_s": 3.8}))[0]
    assert some.kind == "limit"  # hashing on two of four CPUs: neither Python's lock nor the machine
    waits = verdict(busy(cpu_s=0.3, loop_cpu_s=0.1, stage=threads | {"cpu_s": 0.2}))[0]
    assert waits.kind == "limit"


def test_time_without_a_cpu_counts_as_computing_on_a_shared_machine():
    threads = {"lane": "thread", "reason": "fixed", "limit": 8, "cpu_s": 1.0, "cpu_wait_s": 0.9}
    assert verdict(busy(cpu_s=1.05, loop_cpu_s=0.05, stage=threads))[0].kind == "gil"
    assert verdict(busy(cpu_s=1.05, loop_cpu_s=0.05, stage=threads | {"cpu_wait_s": 0.0}))[0].kind == "limit"


def test_a_loop_that_computes_is_named_with_the_line_it_is_found_at():
    found = verdict(busy(cpu_s=1.9, loop_cpu_s=1.85, loop_lines=(("crawl.py:41 in parse", 60), ("crawl.py:9 in f", 9))))
    assert found[0].kind == "loop"
    assert "crawl.py:41 in parse" in found[0].says
    assert 'on="process"' in found[0].advice
    assert verdict(busy(cpu_s=1.0, loop_cpu_s=0.9))[0].kind == "service"


def test_a_function_that_computes_on_the_loop_is_named():
    inline = {"lane": "inline", "name": "parse", "service_s": 1.8}
    found = verdict(busy(cpu_s=1.9, loop_cpu_s=1.85, stage=inline))[0]
    assert (found.kind, found.stage) == ("loop", "parse")


def test_instant_calls_are_told_that_they_are_too_short():
    found = verdict(busy(cpu_s=1.9, loop_cpu_s=1.9, stage={"calls": 1_000_000}))[0]
    assert found.kind == "loop"
    assert "2 us a call" in found.says


def test_a_service_is_what_is_waited_for_only_if_this_machine_was_idle():
    assert "not this machine" in verdict(busy(cpu_s=0.2, loop_cpu_s=0.2))[0].says
    assert "not this machine" not in verdict(busy(cpu_s=0.2, loop_cpu_s=None))[0].says
    assert "not this machine" not in verdict(busy(cpu_s=1.2, loop_cpu_s=0.2))[0].says
    assert "not this machine" not in verdict(busy(cpu_s=0.2, loop_cpu_s=0.2, loop_wait_s=1.0))[0].says


def test_stalls_are_a_second_finding_unless_they_are_most_of_the_run():
    stall = Stall("crawl.py:41 in parse", "time.sleep(0.15)", 3, 0.45, 0.15)
    found = verdict(busy(cpu_s=0.2, loop_cpu_s=0.2, stalls=(stall,)))
    assert [finding.kind for finding in found] == ["service", "stalls"]
    found = verdict(busy(cpu_s=0.2, loop_cpu_s=0.2, stalls=(stall._replace(total_s=1.5),)))
    assert [finding.kind for finding in found] == ["stalls"]
    assert verdict(busy(stalls=(stall._replace(total_s=0.06),)))[0].kind != "stalls"


def test_hostile_names_are_shown_harmlessly():
    stall = Stall("\x1b[2J.py:1 in x", "\u202e", 3, 1.8, 0.15)
    record = busy(source="\x1b[31m\u202e", stage={"name": "\x1b]0;x\x07"}, stalls=(stall,))
    for changed in (record, dataclasses.replace(record, stalls=(), source_s=2.0)):
        for finding in verdict(changed):
            assert finding.says.isprintable()
            assert finding.advice.isprintable()
