"""Watches, from a thread that gevent does not know, whether the greenlets of a host give way to each other.

A call into a C library, or one that computes, holds up all greenlets of its process, and nothing shows it: the run
is just slow. This thread can still see where the process is, and say so, when no greenlet can.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from overlapped._engine.frames import frame
from overlapped._engine.watch import run_delay_s, thread_clock, users_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.greenlets import Greenlets

LOOK_S: Final = 0.05
"""Between two looks: 20 a second cost less than 0.1 % of a core."""

HELD_S: Final = 0.2
"""A hub that has not turned for so long while one call is at it is being held up by that call."""

SHARE: Final = 0.5
"""Calls that never give way, and take this share of the time together, hold up the others, however short each is."""

WINDOW_S: Final = 1.0
"""How long such calls are added up."""

COMPUTES: Final = 0.7
"""CPU / wall of a call that held up the others, from which it computes; else it waits, in a library's C code."""


class Moment(NamedTuple):
    """A point in the life of the thread in which the greenlets run, all in s.

    Attributes:
        at_s: on the clock.
        cpu_s: its CPU time so far.
        delay_s: how long it was ready to run and had no CPU: others held it up then, not a call.
        unyielding_s: how long calls took that never gave way.
        unyielding: how many they were.
    """

    at_s: float
    cpu_s: float
    delay_s: float
    unyielding_s: float
    unyielding: int


class Mouth:
    """The way from a host to its run: for greenlets, and, while they stand still, for the thread that watches them.

    Whoever finds that the run is gone ends the process: nobody wants an answer.
    """

    def __init__(self, wire: BlockingWire) -> None:
        from gevent import monkey

        self._wire = wire
        self._lock = monkey.get_original("_thread", "allocate_lock")()
        self._sending = 0  # greenlets that send, or wait for their turn to

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """Send a frame from a greenlet."""
        with self._lock:
            self._sending += 1
        try:
            self._wire.send(about, values)
        except ConnectionError:
            os._exit(1)
        finally:
            self._sending -= 1

    def send_beside(self, about: list[Any]) -> bool:
        """Send a small frame from the watching thread, unless a greenlet is in the middle of one."""
        with self._lock:  # until it is out, a greenlet that wants to send waits here, and everything with it
            if self._sending:
                return False
            left = memoryview(b"".join(frame(about)))
            try:
                sent = os.write(self._wire.fileno(), left)
                while sent < len(left):  # Linux takes so little at once or not at all
                    left = left[sent:]
                    sent = self._write(left)
            except BlockingIOError:
                return False
            except ConnectionError:
                os._exit(1)
            return True

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._wire.fileno(), data)
        except BlockingIOError:
            return 0


class Heartbeat:
    """Looks at a host again and again; ends the process when its run is gone, whatever its greenlets do."""

    def __init__(self, host: Greenlets) -> None:
        from gevent import monkey

        self._host = host
        self._start: Callable[..., object] = monkey.get_original("_thread", "start_new_thread")
        self._ident: int = monkey.get_original("_thread", "get_ident")()
        self._native_id = threading.get_native_id()
        self._poll = monkey.get_original("select", "poll")()
        self._makes_calls = type(host)._make.__code__  # of the frame under every call
        self._cpu = thread_clock(self._ident)
        self._is_over = False
        self._counts_turns = host.hub.loop.iteration >= 0  # libev's does
        self._has_said = False
        self._looked_s = 0.0
        self._beats = self._asked = 0  # answered by the hub, and asked for
        self._seen = (-1, -1, -1)  # beats, calls begun, and the call, when it was first found at work
        self._since = self._window = self._moment(0.0)
        self._told: set[int] = set()
        self._is_held = False  # and the run knows
        self._places: Counter[str] = Counter()

    def begin(self) -> None:
        """Watch from now on."""
        self._poll.register(self._host.wire.fileno(), 0)
        self._start(self._serve, ())

    def end(self) -> None:
        """The host is about to leave."""
        self._is_over = True

    # -- in the thread ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._is_over:
                if any(event & (select.POLLHUP | select.POLLERR) for _, event in self._poll.poll(1e3 * LOOK_S)):
                    os._exit(1)  # the run is gone: nobody wants an answer
                if not self._is_over:
                    self._look(time.perf_counter())
        except Exception:  # noqa: BLE001 - nobody else would tell; the calls go on unwatched
            traceback.print_exc()

    def _look(self, now_s: float) -> None:
        late_s, self._looked_s = now_s - self._looked_s, now_s
        place, call = self._place()
        seen = (self._beats, self._host.begun, call)
        if place and seen == self._seen and late_s < 3 * LOOK_S:
            self._look_at_one(self._moment(now_s), place)
        else:
            self._seen, self._since = seen, self._moment(now_s)
            if self._is_held and self._host.mouth.send_beside(["turns"]):
                self._is_held = False
        if place and self._asked == self._beats:
            self._asked += 1
            self._host.hub.loop.run_callback_threadsafe(self._beat)
        if place:
            self._places[place] += 1
        self._add_up(now_s)

    def _beat(self) -> None:
        """In the hub: whatever was at work has given way."""
        self._beats += 1

    def _look_at_one(self, now: Moment, place: str) -> None:
        """One call has been at work since the last look, at least, and the hub has not had its turn."""
        held_s = _without_delay(self._since, now)
        if held_s >= HELD_S:
            who = f"{self._host.task.described.name}, at {place},"
            self._say(f"{who} held up the other greenlets of its process for {held_s:.1f} s", self._since, now, held_s)
            self._tell_started()
            self._give_back()

    def _add_up(self, now_s: float) -> None:
        """Calls that never give way may be short, and yet be all that happens: a database's C client."""
        host, from_ = self._host, self._window
        held_s = host.unyielding_s - from_.unyielding_s
        if held_s >= HELD_S and self._places and self._counts_turns:
            now = self._moment(now_s)
            held_s -= now.delay_s - from_.delay_s
            calls, wall_s = host.unyielding - from_.unyielding, now_s - from_.at_s
            if calls > 1 and held_s >= HELD_S and held_s >= SHARE * wall_s:
                who = f"{calls} calls of {host.task.described.name}, mostly at {self._places.most_common(1)[0][0]},"
                self._say(f"{who} held up the other greenlets of their process for {held_s:.1f} s", from_, now, held_s)
        if now_s - from_.at_s > WINDOW_S:
            self._window = self._moment(now_s)
            self._places.clear()

    def _say(self, what: str, before: Moment, now: Moment, held_s: float) -> None:
        """Once: this call does not yield."""
        host = self._host
        if self._has_said or host.limit < 2 or len(host.calls) + len(host.jobs) < 2:
            return  # nobody else is there to be held up
        # A call that began before the window did counts whole; its CPU time does not.
        computes = now.cpu_s - before.cpu_s >= COMPUTES * min(held_s, _without_delay(before, now))
        why, lane = ("CPU work", "process") if computes else ("a C client", "thread")
        advice = f'.{host.task.verb}({host.task.described.name}, on="{lane}")'
        self._has_said = host.mouth.send_beside(["says", f"this call does not yield: {why}; {what}", advice])

    def _tell_started(self) -> None:
        """Tell what runs, which no greenlet can do now: time-outs depend on it."""
        calls = list(self._host.calls.items())
        started = [(number, call.started_s) for number, call in calls if number not in self._told]
        if started and self._host.mouth.send_beside(["started", started]):
            self._told = {number for number, _ in calls}

    def _give_back(self) -> None:
        """Let other processes have what this one cannot begin."""
        if self._is_held:
            return
        jobs = self._host.take_jobs()
        self._is_held = self._host.mouth.send_beside(["held", [number for number, _ in jobs]])
        if not self._is_held:
            self._host.jobs.extendleft(reversed(jobs))

    def _moment(self, now_s: float) -> Moment:
        host = self._host
        cpu_s = self._cpu() if self._cpu is not None else 0.0
        return Moment(now_s, cpu_s, run_delay_s(self._native_id), host.unyielding_s, host.unyielding)

    def _place(self) -> tuple[str, int]:
        """The user's line at which a call is at work, and which call; "": the hub waits, or imports, which is once."""
        top: FrameType | None = sys._current_frames().get(self._ident)  # noqa: SLF001 - the documented way to it
        one = top
        try:
            while one is not None and not one.f_code.co_filename.startswith("<frozen importlib"):
                if one.f_code is self._makes_calls:
                    return users_place(top, one) or self._host.task.described.where or "its first line", id(one)
                one = one.f_back
            return "", -1
        finally:
            del top, one  # they must not keep the user's objects alive


def _without_delay(before: Moment, now: Moment) -> float:
    """How long the thread was at work or waited in a call, s."""
    return (now.at_s - before.at_s) - (now.delay_s - before.delay_s)
