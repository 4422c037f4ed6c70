"""The cross product with stages whose calls run in other processes.

Starting processes takes time, so each fault meets a part of the pairs; together the faults meet all of them.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import test_cross as cross
from tests.faults.harness import child

if TYPE_CHECKING:
    from collections.abc import Callable

if "pytest" in sys.modules:
    pytest.importorskip("cloudpickle", reason="the stages are functions inside functions")
    pytest.importorskip("gevent", reason="some stages run in greenlets")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="hosts need socket pairs that a process inherits")

KINDS = [*cross.KINDS, *cross.HOSTED]
PAIRS = [(first, second) for first in KINDS for second in KINDS if {first, second} & cross.HOSTED.keys()]
FAULTS = 10
PARTS = [0, 1, 2, 3]


def some(fault: int, part: int) -> list[tuple[str, str]]:
    """The pairs for a part of a fault: spread, so that each kind is among them."""
    return [pair for at, pair in enumerate(PAIRS) if at % (FAULTS * len(PARTS)) == fault + FAULTS * part]


def body(test: Any) -> Callable[..., Any]:
    """What a test of the cross product does in its child."""
    return test.case.fn  # type: ignore[no-any-return]  # `child` made it


async def each(fault: int, part: int, test: Any, *more: Any) -> None:
    """A test of the cross product with the pairs of one part, in the order that goes with it."""
    for pair in some(fault, part):
        print(pair, flush=True)
        await body(test)(*pair, part % 2 == 0, *more)


def test_the_faults_together_meet_all_pairs():
    assert {pair for fault in range(FAULTS) for part in PARTS for pair in some(fault, part)} == set(PAIRS)


@child(apart={"part": PARTS})
async def test_an_error_in_the_first_stage(part: int) -> None:
    await each(0, part, cross.test_an_error_in_the_first_stage)


@child(apart={"part": PARTS})
async def test_an_error_in_the_last_stage(part: int) -> None:
    await each(1, part, cross.test_an_error_in_the_last_stage)


@child(apart={"part": PARTS})
async def test_an_error_in_the_source(part: int) -> None:
    await each(2, part, cross.test_an_error_in_the_source)


@child(apart={"part": PARTS})
async def test_failures_that_are_kept(part: int) -> None:
    await each(3, part, cross.test_failures_that_are_kept)


@child(apart={"part": PARTS})
async def test_a_break(part: int) -> None:
    await each(4, part, cross.test_a_break)


@child(apart={"part": PARTS})
async def test_taking_some(part: int) -> None:
    await each(5, part, cross.test_taking_some)


@child(apart={"part": PARTS})
async def test_a_cancel(part: int) -> None:
    await each(6, part, cross.test_a_cancel, 1 + part % 2)


@child(apart={"part": PARTS})
def test_an_error_in_a_plain_loop(part: int) -> None:
    for pair, where in zip(some(7, part), itertools.cycle(["source", "first", "last"]), strict=False):
        print(pair, where, flush=True)
        body(cross.test_an_error_in_a_plain_loop)(pair, part % 2 == 0, where)


@child(apart={"part": PARTS})
def test_a_break_in_a_plain_loop(part: int) -> None:
    for pair in some(8, part):
        print(pair, flush=True)
        body(cross.test_a_break_in_a_plain_loop)(*pair, part % 2 == 0)


@child(apart={"part": PARTS})
def test_ctrl_c(part: int) -> None:
    for pair, how in zip(some(9, part), itertools.cycle(["for", "run", "asyncio.run", "as completed"]), strict=False):
        print(pair, how, flush=True)
        body(cross.test_ctrl_c)(*pair, how)
