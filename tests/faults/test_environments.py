"""The same promises on other loops, in other modes of the interpreter, off the main thread, in a notebook."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from overlapped import Jsonl, Rate, Retry
from tests.faults import test_cross, test_directed, test_failing, test_leaving, test_places
from tests.faults.harness import Case, Place, child, combinations
from tests.faults.kit import Boom, Calls, flow, nap, numbers, pull_from, wait_until_blocking


def newer_python() -> str:
    """An interpreter of 3.12 or later (they know eager tasks): this one, or one that is installed beside it."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = ("python3.13", "python3.12", "python3.14")
    beside = sorted(map(str, Path(sys.base_prefix).parent.glob("3.1[2-9]*/bin/python3")))
    for path in (*beside, *filter(None, map(shutil.which, names))):
        asked = [path, "-c", "import sys; assert sys.version_info >= (3, 12)"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return str(path)
    return ""


def has_uvloop() -> bool:
    """Whether it is installed here."""
    from importlib.util import find_spec

    return find_spec("uvloop") is not None


PLACES = {
    "asyncio": Place(has_uvloop=False),
    "debug": Place(env={"PYTHONASYNCIODEBUG": "1"}),
    "warnings are errors": Place(flags=("-W", "error")),
    "dev": Place(flags=("-X", "dev")),
    "optimized": Place(env={"PYTHONOPTIMIZE": "2"}),
    "not the main thread": Place(in_thread=True),
}
if has_uvloop():
    PLACES["uvloop"] = Place(loop="uvloop")
    PLACES["uvloop debug"] = Place(loop="uvloop", env={"PYTHONASYNCIODEBUG": "1"}, flags=("-W", "error"))
if NEWER := newer_python():
    PLACES["newer"] = Place(python=NEWER, has_uvloop=sys.executable == NEWER)
    PLACES["eager"] = Place(python=NEWER, eager=True, has_uvloop=sys.executable == NEWER)
    PLACES["eager debug"] = Place(python=NEWER, eager=True, flags=("-X", "dev", "-W", "error"), has_uvloop=False)


def tour() -> list[tuple[str, dict[str, Any]]]:
    """Some of the other cases, many for one process: each fault with each kind of stage as the first and the last."""
    chosen: list[tuple[str, dict[str, Any]]] = []
    kinds = test_cross.KINDS
    for test, shift in (
        (test_cross.test_an_error_in_the_first_stage, 3),
        (test_cross.test_an_error_in_the_last_stage, 5),
        (test_cross.test_a_break, 6),
        (test_cross.test_a_cancel, 1),
        (test_cross.test_a_break_in_a_plain_loop, 4),
        (test_cross.test_a_flow_in_a_flow, 2),
    ):
        for at, first in enumerate(kinds):
            second, params = kinds[(at + shift) % len(kinds)], {"ordered": bool(at % 2)}
            pair = {"pair": (first, second)} if "pair" in test.case.together else {"first": first, "second": second}
            chosen.append((_place(test), params | pair | ({"times": 1} if "times" in test.case.apart else {})))
    for test, every in (
        (test_failing.test_what_ends_a_loop_comes_out_of_a_call_as_a_runtime_error, 5),
        (test_failing.test_all_errors_of_one_moment_can_be_reached, 1),
        (test_failing.test_a_call_that_is_cancelled_from_inside_does_not_hang, 1),
        (test_leaving.test_an_anext_cancelled_in_the_turn_of_its_result_loses_nothing, 1),
        (test_leaving.test_a_timeout_around_a_loop_is_a_timeout_and_leaves_no_cancel_behind, 1),
        (test_leaving.test_two_tasks_may_close_at_once_and_both_wait, 1),
        (test_directed.test_a_cancel_that_a_call_left_pending_does_not_hit_the_next_item, 2),
        (test_places.test_take_pulls_and_calls_no_more_than_is_wanted, 1),
        (test_places.test_what_a_generator_gave_before_it_failed_stays_and_its_failure_follows, 5),
    ):
        chosen += [(_place(test), params) for params in combinations(test.case.apart | test.case.together)[::every]]
    return chosen


def _place(test: Any) -> str:
    case: Case = test.case
    return f"{case.fn.__module__}:{case.fn.__name__}"


PARTS = 3  # of the tour, so that none of them takes long


def _part(name: str, part: int) -> Any:
    @child(place=PLACES[name], of=tour()[part::PARTS])
    def test() -> None:
        """`of` stands for other cases."""

    return test


async def everything(folder: str) -> None:
    """One of each, in one flow after the other."""
    path = Path(folder) / "out.jsonl"
    calls = Calls()

    async def flaky(item: int) -> int:
        with calls.one(item):
            await asyncio.sleep(0.001)
            if calls.started.count(item) == 1 and item % 10 == 0:
                raise Boom
        return item

    def blocks(item: int) -> dict[str, int]:
        return {"n": item}

    chain = flow(numbers).map(flaky, concurrency=8, retry=Retry(2, base_s=0.001), rate=Rate(5_000), timeout_s=2)
    chain = chain.filter(lambda n: n % 2 == 0).skip(1).take(50).batch(7, linger_s=0.5).flatten()
    report = await chain.map(blocks).to(Jsonl(path)).arun(progress=lambda record: None)
    assert report.items == 50
    lines = await asyncio.to_thread(path.read_text)
    assert len(lines.splitlines()) == 50


def _everything_in(name: str) -> Any:
    @child(place=PLACES[name])
    async def test() -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            await everything(folder)

    return test


def _add(prefix: str, make: Any) -> None:
    for place in PLACES:
        test = make(place)
        name = f"test_{prefix}_{place.replace(' ', '_')}"
        test.__name__ = test.case.fn.__name__ = name
        globals()[name] = test


for _number in range(PARTS):
    _add(f"faults_{_number}_in_place", lambda name, part=_number: _part(name, part))
_add("one_of_each_in_place", _everything_in)


# -- a notebook: a loop runs in this thread already --------------------------------------------------------------------


@child
async def test_a_blocking_run_under_a_running_loop_works() -> None:
    before = asyncio.get_running_loop()
    assert flow(range(50)).map(nap, concurrency=5).collect() == list(range(50))
    assert flow(range(50)).map(str).run().items == 50
    assert list(flow(numbers(50)).map(nap).map(lambda n: n)) == list(range(50))
    for item in flow(numbers()).map(nap):
        if item == 5:
            break
    with flow(numbers()).map(nap).open() as items:
        assert next(items) == 0
    assert asyncio.get_running_loop() is before
    await asyncio.sleep(0.01)
    wait_until_blocking(lambda: threading.active_count() == 1)


@child
async def test_errors_of_a_blocking_run_under_a_running_loop_come_out_as_themselves() -> None:
    async def fails(item: int) -> int:
        if item == 3:
            raise Boom
        return item

    for how in ("run", "collect"):
        try:
            getattr(flow(range(10)).map(fails), how)()
        except Boom as error:
            assert error.report.record.failed == 1  # type: ignore[attr-defined]
        else:
            raise AssertionError("no error")
    got: list[Any] = []
    assert isinstance(pull_from(flow(range(10)).map(fails), got), Boom)
    assert got == [0, 1, 2]


@child
async def test_flows_of_one_loop_run_side_by_side() -> None:
    flows = [flow(range(30)).map(nap, concurrency=2).map(lambda n: n, concurrency=1) for _ in range(20)]
    got = await asyncio.gather(*(one.acollect() for one in flows), return_exceptions=True)
    assert got == [list(range(30))] * 20


@child
def test_runs_in_many_threads_do_not_meet() -> None:
    got: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: got.append(flow(numbers(100)).map(nap, concurrency=4).map(int).collect()))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(8)
    assert got == [list(range(100))] * 12
