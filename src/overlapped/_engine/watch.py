"""Watches a run's loop from a thread beside it: what keeps it from turning, and where it spends its time.

asyncio's debug mode tells which task was slow, afterwards. Looking at the loop's thread while it is late tells the
line (the idea is py-spy's and aiocop's). A run shorter than `WATCH_AFTER_S` is not watched: it starts no thread.
"""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from overlapped.record import Stall

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from overlapped._engine.scope import Scope

WATCH_AFTER_S: Final = 0.05
"""A thread costs 0.1 ms to start; shorter runs are not worth it."""

BEAT_S: Final = 0.025
"""Between two looks: 40 a second wake the loop as often, 0.2 % of a core."""

STALL_S: Final = 0.05
"""A loop that has not turned for so long stands still. One of 75 ms is surely seen, as the beat may come late in it."""

LOOK_S: Final = 0.005
"""Between two looks at a loop that is late."""

SAME_PLACE: Final = 0.6
"""Share of the looks during a stall that found one function, from which the stall is its."""

OTHERS: Final = 0.5
"""Share of a stall in which the loop's thread had no CPU, or the watcher not the interpreter: beyond it, others held
it up (a busy machine, a call in C that does not let go of Python's lock), and no line is to blame."""

MOST_PLACES: Final = 200
"""Places that are remembered."""

_LIBRARIES: Final = tuple(
    {
        path
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_paths().get(name)) is not None
    }
    | {__file__.partition("_engine")[0] + room for room in ("_engine", "lanes", "stages", "report", "cli/run.py")}
    | {__file__.partition("_engine")[0] + file for file in ("running.py", "items.py", "bridge.py", "flow.py")}
)
_ASYNCIO: Final = asyncio.__file__.rpartition("__init__")[0]
_LOOPS_OWN: Final = frozenset({"run", "run_until_complete", "run_forever", "_run_once", "_run"})


class Watch:
    """The watcher of one run."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._loop = scope.loop
        self._ident = threading.get_ident()
        self._cpu = thread_clock(self._ident)
        self._cpu_from_s = self._cpu() if self._cpu is not None else 0.0
        self._native_id = threading.get_native_id()
        self._waited_from_s = run_delay_s(self._native_id)
        self._is_virtual = hasattr(scope.loop, "overlapped_clock")
        self._end = threading.Event()
        self._left = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._beats = 0  # how many the loop has answered
        self._stalls: dict[tuple[str, str], list[float]] = {}
        self._code: dict[tuple[str, str], tuple[str, int]] = {}
        self._places: Counter[str] = Counter()

    # -- on the loop -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Watch from a little later on."""
        if not self._is_virtual:
            self._scope.later(WATCH_AFTER_S, self._start)

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="overlapped:watch", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # the system has no thread left: the run goes on unwatched
        self._thread = thread
        self._scope.closers.append(self.close)

    async def close(self) -> None:
        """End the thread."""
        self._end.set()
        await self._left.wait()
        if self._thread is not None:
            self._thread.join()  # it has nothing left to do

    def loop_cpu_s(self) -> float | None:
        """CPU time of the loop's thread since the start of the run, s; None where it cannot be told."""
        if self._cpu is None or self._is_virtual:
            return None
        try:
            return self._cpu() - self._cpu_from_s
        except OSError:  # the thread has ended
            return None

    def loop_wait_s(self) -> float:
        """How long the loop's thread was ready to run and had no CPU, since the start of the run, s; 0: not known."""
        return 0.0 if self._is_virtual else max(0.0, run_delay_s(self._native_id) - self._waited_from_s)

    def stalls(self) -> tuple[Stall, ...]:
        """The lines that kept the loop from turning, the worst first."""
        found = []
        for place, lasted in list(self._stalls.items()):
            where, line = self._code[place]
            found.append(Stall(f"{where}:{line} in {place[1]}", _code(place[0], line), *_sums(lasted)))
        return tuple(sorted(found, key=lambda stall: -stall.total_s)[:MOST_PLACES])

    def lines(self) -> tuple[tuple[str, int], ...]:
        """Where the loop's thread was found when it did not wait, the most frequent first."""
        return tuple(self._places.copy().most_common(20))

    # -- in the thread ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._end.wait(BEAT_S):
                self._look()
                before, posted_s = self._beats, time.perf_counter()
                self._loop.call_soon_threadsafe(self._beat)
                if not self._end.wait(BEAT_S) and self._beats == before:
                    self._watch_stall(before, posted_s)
            self._loop.call_soon_threadsafe(self._left.set)
        except RuntimeError:
            pass  # the loop is closed: the run was abandoned

    def _beat(self) -> None:
        self._beats += 1

    def _look(self) -> None:
        if (place := self._place()) is not None:
            name = f"{_short(place[0])}:{place[2]} in {place[1]}"
            if name in self._places or len(self._places) < MOST_PLACES:
                self._places[name] += 1

    def _watch_stall(self, before: int, posted_s: float) -> None:
        """The loop is late: look again and again where it is, until it turns."""
        found: Counter[tuple[str, str]] = Counter()
        lines: Counter[tuple[str, str, int]] = Counter()
        looks, late_s = 0, 0.0
        own_id = threading.get_native_id()
        no_cpu_s, own_no_cpu_s = -run_delay_s(self._native_id), -run_delay_s(own_id)
        while self._beats == before and not self._end.is_set():
            looks += 1
            if (place := self._place()) is not None:
                found[place[0], place[1]] += 1
                lines[place] += 1
            asked_s = time.perf_counter()
            self._end.wait(LOOK_S)
            late_s += max(0.0, time.perf_counter() - asked_s - LOOK_S)
        lasted_s = time.perf_counter() - posted_s
        no_cpu_s += run_delay_s(self._native_id)
        own_no_cpu_s += run_delay_s(own_id)
        if lasted_s < STALL_S or not found or max(no_cpu_s, late_s - own_no_cpu_s) > OTHERS * lasted_s:
            return
        where, count = found.most_common(1)[0]
        if count < SAME_PLACE * looks or (where not in self._stalls and len(self._stalls) >= MOST_PLACES):
            return
        line = next(place[2] for place, _ in lines.most_common() if place[:2] == where)
        self._code.setdefault(where, (_short(where[0]), line))
        self._stalls.setdefault(where, [0, 0.0, 0.0])
        times, total_s, longest_s = self._stalls[where]
        self._stalls[where] = [times + 1, total_s + lasted_s, max(longest_s, lasted_s)]

    def _place(self) -> tuple[str, str, int] | None:
        """File, function and line of the innermost frame of the loop's thread that is the user's; None: it waits."""
        frame: FrameType | None = sys._current_frames().get(self._ident)  # noqa: SLF001 - the documented way to it
        try:
            while frame is not None:
                code = frame.f_code
                if code.co_name in _LOOPS_OWN and code.co_filename.startswith(_ASYNCIO):
                    return None  # beyond it is whoever started the loop
                # What namedtuple and dataclass have written stands in "<string>"; so does `python -c`, the user's.
                is_made = code.co_filename == "<string>" and frame.f_globals.get("__name__") != "__main__"
                if not is_made and is_users(code.co_filename):
                    return code.co_filename, code.co_qualname, frame.f_lineno
                frame = frame.f_back
            return None
        finally:
            del frame  # it must not keep the user's objects alive


def run_delay_s(native_id: int) -> float:
    """How long a thread of this process was ready to run and had no CPU, s; 0 where the system does not tell."""
    try:
        with open(f"/proc/self/task/{native_id}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # no Linux, a kernel without it, or the thread has ended
        return 0.0


def users_place(top: FrameType | None, last: FrameType) -> str:
    """File, line and function of the innermost frame, from `top` to `last`, that is the user's; "" if none is."""
    one = top
    while one is not None and one is not last:
        if is_users(one.f_code.co_filename):
            return f"{_short(one.f_code.co_filename)}:{one.f_lineno} in {one.f_code.co_qualname}"
        one = one.f_back
    return ""


def is_users(path: str) -> bool:
    """Whether a file is the user's: none of the standard library, of installed packages, or of the engine."""
    return not path.startswith(_LIBRARIES) and not path.startswith("<frozen")


def thread_clock(ident: int) -> Callable[[], float] | None:
    """The CPU clock of a thread, which every other thread may read; None where there is no such thing."""
    get_id = getattr(time, "pthread_getcpuclockid", None)
    if get_id is None:
        return None
    try:
        number = get_id(ident)
        time.clock_gettime(number)
    except OSError:
        return None
    return lambda: time.clock_gettime(number)


def _sums(lasted: list[float]) -> tuple[int, float, float]:
    return int(lasted[0]), lasted[1], lasted[2]


def _short(path: str) -> str:
    """The last part of a path: enough for people, and no secret of the machine."""
    return path.replace("\\", "/").rpartition("/")[2]


def _code(path: str, line: int) -> str:
    import linecache

    return linecache.getline(path, line).strip()[:100]
