"""Ctrl-C, exit and fork: the ends of a run that come from outside of it."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

from overlapped import UsageError
from tests.faults.harness import LIMIT_S, OK, Place, Result, child
from tests.faults.kit import (
    Boom,
    Calls,
    async_numbers,
    flow,
    nap,
    numbers,
    pull_from,
    short_grace,
    took,
    wait_until_blocking,
    waiting,
)

KEPT: list[Any] = []  # what a module keeps alive until the interpreter ends


def ctrl_c(after_s: float, *more_s: float) -> None:
    """Press Ctrl-C in this process, from a thread, once or more often."""

    def press() -> None:
        for wait_s in (after_s, *more_s):
            time.sleep(wait_s)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


@child(apart={"how": ["for", "with", "collect", "run"]}, lane=["coroutine", "thread"])
def test_ctrl_c_while_a_result_is_waited_for_cancels_and_raises(how: str, lane: str) -> None:
    calls = Calls()
    stage = flow(numbers).map(waiting(calls, lane), concurrency=4)
    ctrl_c(0.2)
    with took(3):
        try:
            if how == "for":
                for _ in stage:
                    pass
            elif how == "with":
                with stage.open() as items:
                    for _ in items:
                        pass
                    assert calls.now == 0
            else:
                getattr(stage, how)()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("Ctrl-C was swallowed")
    if how != "for":
        assert calls.now == 0
    wait_until_blocking(lambda: calls.now == 0)


@child(apart={"how": ["async for", "scope", "arun"]})
def test_ctrl_c_in_asyncio_run_cancels_and_raises(how: str) -> None:
    calls = Calls()

    async def main() -> None:
        stage = flow(async_numbers).map(waiting(calls, "coroutine"), concurrency=4)
        if how == "async for":
            async for _ in stage:
                pass
        elif how == "scope":
            async with stage.open() as items:
                async for _ in items:
                    pass
        else:
            await stage.arun()

    ctrl_c(0.2)
    with took(3):
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("Ctrl-C was swallowed")
    assert calls.now == 0


@child
def test_a_second_ctrl_c_while_a_scope_is_left_does_not_hang_and_leaves_nothing() -> None:
    calls = Calls()
    ctrl_c(0.2, 0.2)
    with took(3):
        try:
            with flow(numbers).map(waiting(calls, "coroutine", cleanup_s=0.6), concurrency=4).open() as items:
                for _ in items:
                    pass
        except KeyboardInterrupt:
            pass
    wait_until_blocking(lambda: calls.now == 0)


@child(lane=["coroutine", "thread"], how=["run", "collect"])
def test_a_second_ctrl_c_in_a_blocking_call_is_a_keyboard_interrupt_and_leaves_nothing(lane: str, how: str) -> None:
    calls = Calls()
    stage = flow(numbers).map(waiting(calls, lane, cleanup_s=0.4), concurrency=4)
    ctrl_c(0.2, 0.1)
    with took(3):
        try:
            getattr(stage, how)()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("Ctrl-C was swallowed")
    wait_until_blocking(lambda: calls.now == 0)


@child
def test_a_second_ctrl_c_in_asyncio_run_does_not_hang_and_leaves_nothing() -> None:
    calls = Calls()

    async def main() -> None:
        async with flow(async_numbers).map(waiting(calls, "coroutine", cleanup_s=0.4), concurrency=4).open() as items:
            async for _ in items:
                pass

    ctrl_c(0.2, 0.2)
    with took(3):
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            pass


@child
def test_ctrl_c_in_the_body_of_a_loop_ends_the_run() -> None:
    calls = Calls()

    def body() -> None:
        for _ in flow(numbers).map(waiting(calls, "coroutine"), concurrency=4):
            time.sleep(5)

    ctrl_c(0.2)
    with took(3):
        try:
            body()
        except KeyboardInterrupt:
            pass
    wait_until_blocking(lambda: calls.now == 0)


@child(apart={"how": ["run", "collect", "for"]})
def test_ctrl_c_in_a_blocking_call_under_a_running_loop_cancels_and_raises(how: str) -> None:
    """A notebook: its kernel runs a loop in the main thread, and Ctrl-C raises KeyboardInterrupt there."""
    calls = Calls()
    seen: list[BaseException] = []

    async def cell() -> None:
        stage = flow(numbers).map(waiting(calls, "coroutine"), concurrency=4)
        try:
            if how == "for":
                for _ in stage:
                    pass
            else:
                getattr(stage, how)()
        except KeyboardInterrupt as error:
            seen.append(error)

    loop = asyncio.new_event_loop()
    ctrl_c(0.2)
    with took(3):
        loop.run_until_complete(cell())
    loop.close()
    assert seen, "Ctrl-C was swallowed"
    wait_until_blocking(lambda: calls.now == 0)


class SlowToAttach:
    """A stage that makes the start of a run take its time."""

    verb = name = "slow"

    def attach(self, up: Any, scope: Any, seat: Any) -> Any:
        time.sleep(0.4)
        return up

    def explain(self) -> str:
        return "slow"


@child(apart={"how": ["for", "with", "run"]})
def test_ctrl_c_while_a_run_is_being_started_leaves_nothing(how: str) -> None:
    calls = Calls()
    stage = flow(numbers).map(waiting(calls, "coroutine"), concurrency=4).through(SlowToAttach())
    ctrl_c(0.2)
    with took(3):
        try:
            if how == "for":
                for _ in stage:
                    pass
            elif how == "with":
                with stage.open() as items:
                    list(items)
            else:
                stage.run()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("Ctrl-C was swallowed")
    wait_until_blocking(lambda: calls.now == 0)


def a_signal_handler_that_raises(how: str, lane: str, *, times: int) -> None:
    """The usual time-out of pytest-timeout, Celery and the like; it strikes in whatever callback is about to begin.

    Or, once in some hundred times, in the lines of asyncio's loop where a timer is in nobody's hands: so few of those.
    """
    calls, error = Calls(), Boom("late")

    def late(*_: object) -> None:
        raise error

    async def naps(item: int) -> None:
        with calls.one(item):
            await asyncio.sleep(0.02)

    def blocks(item: int) -> None:
        with calls.one(item):
            time.sleep(0.02)

    signal.signal(signal.SIGALRM, late)
    chain = flow(numbers).map(naps if lane == "coroutine" else blocks, concurrency=4)
    for n in range(times):
        signal.setitimer(signal.ITIMER_REAL, 0.05 + 0.0037 * n)
        with took(2):
            try:
                getattr(chain, how)()
            except Boom as raised:
                assert raised is error
            else:
                raise AssertionError("it was swallowed")
        assert calls.now == 0


@child(how=["run", "collect"], lane=["coroutine", "thread"])
def test_what_a_signal_handler_raises_ends_a_blocking_call(how: str, lane: str) -> None:
    a_signal_handler_that_raises(how, lane, times=20)


@child(how=["run", "collect"], lane=["coroutine", "thread"], place=Place(has_uvloop=False))
def test_what_a_signal_handler_raises_ends_a_blocking_call_without_uvloop(how: str, lane: str) -> None:
    a_signal_handler_that_raises(how, lane, times=1)


@child
def test_drain_is_safe_in_a_signal_handler() -> None:
    with flow(numbers).map(nap, concurrency=3).open() as items:
        signal.signal(signal.SIGINT, lambda *_: items.drain())
        ctrl_c(0.05, 0.01, 0.01)
        got: list[Any] = []
        error = pull_from(items, got)
        assert error is None, repr(error)
        assert got == list(range(len(got)))
        assert items.report.record.state == "stopped"


# -- exit -------------------------------------------------------------------------------------------------------


def is_quiet(result: Result, *, code: int = 0, at_most_s: float = LIMIT_S - 2, err: str = "") -> None:
    """The process ended by itself, soon, and every line it said has `err` in it."""
    __tracebackhide__ = True
    assert result.code == code, result
    assert result.took_s < at_most_s, result
    assert not result.err or (err and err in result.err and "Traceback" not in result.err), result


@child(judge=is_quiet, apart={"lane": ["coroutine", "thread"], "kept": ["global", "cycle", "local"]})
def test_exit_with_a_live_iterator_is_silent(lane: str, kept: str) -> None:
    calls = Calls()
    items = iter(flow(numbers).map(waiting(calls, lane), concurrency=4))
    assert next(items) == 0
    if kept == "global":
        KEPT.append(items)
    elif kept == "cycle":
        cycle: list[Any] = [items]
        cycle.append(cycle)
    else:
        sys.exit()
    sys.stdout.flush()
    sys.exit(0)


def has_cleaned_up(result: Result) -> None:
    """The call's `finally` has spoken."""
    is_quiet(result)
    assert result.out.count("cleaned up") == 3, result


@child(judge=has_cleaned_up)
def test_at_exit_live_calls_clean_up() -> None:
    async def waits(item: int) -> int:
        try:
            await asyncio.sleep(60 if item else 0)
        finally:
            await asyncio.sleep(0.05)
            if item:
                print("cleaned up", flush=True)
        return item

    KEPT.append(iter(flow(range(4)).map(waits, concurrency=4)))
    next(KEPT[-1])
    time.sleep(0.05)
    sys.exit()


@child(judge=lambda result: is_quiet(result, code=3))
def test_sys_exit_in_a_loop_is_the_exit_code() -> None:
    for _ in flow(numbers).map(nap, concurrency=4).map(lambda item: item):
        sys.exit(3)


@child(judge=lambda result: is_quiet(result, code=3), apart={"lane": ["coroutine", "thread", "inline"]})
def test_sys_exit_in_a_call_is_the_exit_code(lane: str) -> None:
    async def leaves(item: int) -> int:
        sys.exit(3)

    def leaves_plain(item: int) -> int:
        sys.exit(3)

    if lane == "coroutine":
        flow(numbers).map(leaves).run()
    flow(numbers).map(leaves_plain, on=lane).run()


def one_traceback(result: Result) -> None:
    """Only the user's own error is shown."""
    assert result.code == 1, result
    assert result.err.count("Traceback") == 1, result
    assert result.err.rstrip().endswith("Boom"), result


@child(judge=one_traceback, apart={"lane": ["coroutine", "thread"]})
def test_an_error_that_ends_the_program_is_the_only_one_shown(lane: str) -> None:
    for _ in flow(numbers).map(waiting(Calls(), lane), concurrency=4):
        raise Boom


@child(judge=lambda result: is_quiet(result, at_most_s=5, err="ResourceWarning"), apart={"what": ["call", "source"]})
def test_exit_does_not_wait_for_ever_for_what_blocks(what: str) -> None:
    short_grace()
    never = threading.Event()

    def blocks(item: int) -> int:
        if item:
            never.wait()
        return item

    def source() -> Any:
        yield 0
        never.wait()

    items = flow(numbers).map(blocks, concurrency=2) if what == "call" else flow(source).map(nap)
    KEPT.append(iter(items))
    next(KEPT[-1])
    sys.exit()


@child(judge=is_quiet)
def test_exit_while_threads_print_does_not_crash() -> None:
    def prints(item: int) -> int:
        print(item, flush=True)
        return item

    KEPT.append(iter(flow(numbers).map(prints, concurrency=4).map(prints, concurrency=4)))
    for _ in range(100):
        next(KEPT[-1])
    sys.exit()


@child(judge=is_quiet)
def test_exit_while_a_daemon_thread_iterates_is_silent() -> None:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: pull_from(iter(flow(numbers).map(nap, concurrency=4)), got), daemon=True)
    thread.start()
    wait_until_blocking(lambda: len(got) > 10)
    sys.exit()


# -- fork -----------------------------------------------------------------------------------------------------------


def forked(work: Any) -> int:
    """Do `work()` in a forked child that ends as processes do; its exit code."""
    import faulthandler
    import warnings

    faulthandler.cancel_dump_traceback_later()  # a forked child would wait for the thread that it has not
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads: that is the fault
        pid = os.fork()
    if pid:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if (done := os.waitpid(pid, os.WNOHANG))[0]:
                return os.waitstatus_to_exitcode(done[1])
            time.sleep(0.01)
        os.kill(pid, signal.SIGABRT)
        os.waitpid(pid, 0)
        raise AssertionError("the forked child hangs")
    work()
    sys.exit(7)


@child(judge=lambda result: is_quiet(result) if OK in result.out else is_quiet(result, code=7))
def test_after_a_fork_the_child_is_told_and_the_parent_goes_on() -> None:
    calls = Calls()
    items = iter(flow(range(300)).map(nap, concurrency=3).map(lambda item: item))
    assert next(items) == 0

    def in_child() -> None:
        try:
            next(items)
        except UsageError as error:
            assert "fork" in str(error)
        else:
            raise AssertionError("a run of the parent went on in the child")
        items.close()
        items.drain()
        assert flow(range(20)).map(nap).map(str, on="thread").collect() == [str(n) for n in range(20)]

    assert forked(in_child) == 7
    assert list(items) == list(range(1, 300))
    assert calls.now == 0


@child(judge=lambda result: is_quiet(result) if OK in result.out else is_quiet(result, code=7))
def test_a_forked_child_that_drops_the_iterator_does_not_end_the_parents_run() -> None:
    KEPT.append(iter(flow(range(300)).map(nap, concurrency=3)))
    assert next(KEPT[-1]) == 0
    assert forked(KEPT.clear) == 7
    assert list(KEPT[-1]) == list(range(1, 300))
    KEPT.clear()


@child(judge=lambda result: is_quiet(result) if OK in result.out else is_quiet(result, code=7))
def test_a_fork_inside_a_call_ends_with_its_own_exit() -> None:
    def forks(item: int) -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(9)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)
    assert flow(range(20)).map(forks, concurrency=4).collect() == [9] * 20
