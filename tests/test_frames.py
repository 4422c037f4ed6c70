"""Wires: what has been sent arrives, and that the other end is gone is noticed on every loop, however it went."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import pytest

from overlapped._engine.frames import READ_BYTES, READS, Wire, frame
from overlapped._engine.loop import new_loop

LOOPS = [asyncio.new_event_loop, new_loop]  # a run's own is uvloop's


def run(scenario: Any, new_loop: Any) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(scenario())


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_unread", [False, True], ids=["all was read", "something was unread"])
@pytest.mark.parametrize("sends", ["nothing", "a frame", "many frames"])
def test_an_end_is_noticed_after_all_that_came_before_it(new_loop, is_unread, sends):
    """An end with something unread is an error of the socket, of which uvloop tells a reader once."""
    frames = {"nothing": 0, "a frame": 1, "many frames": 40}[sends]

    async def scenario() -> list[int]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        got: list[int] = []
        ended: asyncio.Future[None] = loop.create_future()
        wire = Wire(ours, loop, lambda about, values: got.append(about[0]), lambda: ended.set_result(None))
        if is_unread:
            wire.send(["unread"])
        for n in range(frames):
            theirs.sendall(b"".join(frame([n], bytes(1_000))))
        theirs.close()
        await asyncio.wait_for(ended, 5)
        return got

    assert run(scenario, new_loop) == [*range(frames)]


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_an_end_is_noticed_while_something_waits_to_be_sent(new_loop):
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ended: asyncio.Future[None] = loop.create_future()
        wire = Wire(ours, loop, lambda about, values: None, lambda: ended.set_result(None))
        wire.send(["large"], bytes(8 * READ_BYTES))  # more than a socket takes
        await asyncio.sleep(0)
        theirs.close()
        await asyncio.wait_for(ended, 5)
        wire.send(["too late"])

    run(scenario, new_loop)


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_others_on_the_loop_have_their_turn_while_much_arrives(new_loop):
    async def scenario() -> list[str]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        happened: list[str] = []
        ended: asyncio.Future[None] = loop.create_future()

        def on_frame(about: list[Any], values: memoryview) -> None:
            happened.append("frame")
            if len(happened) < 10 * READS:
                theirs.sendall(b"".join(frame([0], b"more")))  # it is always there when the wire looks again
            else:
                theirs.close()

        Wire(ours, loop, on_frame, lambda: ended.set_result(None))
        theirs.sendall(b"".join(frame([0], b"first")))
        while not ended.done():
            happened.append("turn")
            await asyncio.sleep(0)
        return happened

    happened = run(scenario, new_loop)
    turns = [at for at, what in enumerate(happened) if what == "turn"]
    assert max(later - turn for turn, later in itertools.pairwise(turns)) <= READS + 1
