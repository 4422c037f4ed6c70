"""The other side of a port to processes: what a host does with the frames it gets.

`Answers` collects outcomes and sends them together, `Orders` does what the run says. What makes the calls stands in
`single`, `together`, `relay` and `greenlets`.
"""

from __future__ import annotations

import pickle
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import PLAIN_TYPES, describe, is_awaitable, is_generator, refuse_result
from overlapped._engine.host import ERROR, OK, PART, SPOILED
from overlapped._engine.parcels import BY_NAME, pack, pack_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.callables import Described
    from overlapped._engine.host import Work
    from overlapped._engine.parcels import Packing

FLUSH_S: Final = 0.002
"""Outcomes wait so long for company: a frame costs 40-90 us (prototype)."""

LONG_S: Final = 0.005
"""A call that has run for so long is told of, and what was done before it is sent."""

LEAVE_S: Final = 3
"""When all has been said, what calls have left behind in a process (threads, tasks, exit handlers) has so long. It is
less than the 5 s after which its run ends a host that closes its resources."""


class Task:
    """The user's functions, unpacked.

    Attributes:
        fn: the function.
        factories: the resources it wants, by name.
        own: those of them that each worker opens for itself, where a host has several.
    """

    def __init__(self, work: Work) -> None:
        self.fn: Callable[..., Any] = pickle.loads(work.fn)  # noqa: S301 - a private socket to the run that started us
        self.factories = {name: pickle.loads(blob) for name, blob in work.factories}  # noqa: S301 - as above
        self.own = work.own
        self.verb = work.verb
        self.name = work.name
        self.many = work.many
        self.packing = work.packing
        self.described: Described = describe(self.fn, work.verb)

    def packed(self, error: BaseException) -> tuple[bytes, str, str]:
        """An exception, for the run."""
        blob, brief, text = pack_error(error, self.packing)
        return blob, brief, text


def unpack(
    task: Task, numbers: list[int], values: memoryview, say: Callable[[list[Any]], object]
) -> list[tuple[int, object]]:
    """The jobs of a chunk that has arrived; of one that cannot be read, none, and the run is told."""
    try:
        items = pickle.loads(values)  # noqa: S301 - a private socket to the run that started us
    except BaseException as error:  # noqa: BLE001 - a class that is not here, or its own __setstate__
        say(["unreadable", numbers, task.packed(error)])
        return []
    return list(zip(numbers, items, strict=True))


def leave_soon() -> None:
    """Have the kernel end this process, if what calls have left behind does not end by itself."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # Python does it at the very end, which may not come
        except (AttributeError, ValueError, OSError):  # there is none, or a call has closed it
            continue
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LEAVE_S)


class Orders:
    """What the run says to a host whose workers pull from one queue: which jobs there are, and how many at once."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.limit = 0
        self.jobs: deque[tuple[int, object]] = deque()

    def take_jobs(self) -> list[tuple[int, object]]:
        """Take all jobs that have not been begun; a watching thread may do so at any moment."""
        taken = []
        while True:
            try:
                taken.append(self.jobs.popleft())
            except IndexError:
                return taken

    def take(self, about: list[Any], values: memoryview) -> None:
        """Do what a frame says."""
        what = about[0]
        if what == "run":
            self.jobs.extend(unpack(self.task, about[1], values, self.say))
        elif what == "limit":
            if about[1] < self.limit:
                self.give_back()
            self.limit = about[1]
        elif what == "ack":
            self.acknowledge(about[1], about[2])
        elif what == "back":
            self.give_back()
        elif what == "cancel":
            if self.stop(about[1]):
                self.say(["stopping", about[1]])
            elif any(job[0] == about[1] for job in list(self.jobs)):
                self.give_back()
        elif what == "end":
            self.jobs.clear()
            self.limit = 0
            self.finish()
        self.fill()

    def give_back(self) -> None:
        """Let the run have what has not been begun."""
        self.say(["back", [number for number, _ in self.take_jobs()]])

    def say(self, about: list[Any]) -> None:
        """Tell the run."""
        raise NotImplementedError

    def acknowledge(self, number: int, count: int) -> None:
        """So many results of a generator have been taken; a negative number: nobody wants more."""
        raise NotImplementedError

    def stop(self, number: int) -> bool:
        """Stop this job's call; False if it does not run."""
        raise NotImplementedError

    def finish(self) -> None:
        """It is the end."""
        raise NotImplementedError

    def fill(self) -> None:
        """Have as many workers as the jobs and the limit want."""
        raise NotImplementedError


class Answers:
    """Outcomes on their way to the run, sent in chunks."""

    def __init__(self, send: Callable[..., None], cpu: Callable[[], float], packing: Packing = BY_NAME) -> None:
        self._send = send
        self._cpu = cpu
        self._cpu_s = cpu()
        self._packing = packing
        self._lock = threading.Lock()
        self._entries: list[tuple[int, int, object, tuple[float, float, int]]] = []
        self.add = self._entries.append

    def __len__(self) -> int:
        return len(self._entries)

    def flush(self) -> None:
        """Send what has come together."""
        with self._lock:
            entries = self._entries[:]  # whoever adds meanwhile adds behind these
            del self._entries[: len(entries)]
            if not entries:
                return
            now = self._cpu()
            spent_s, self._cpu_s = now - self._cpu_s, now
            try:
                values = pack([value for _, _, value, _ in entries], self._packing)
            except Exception:  # noqa: BLE001 - one of them cannot travel; which?
                entries = [_checked(entry, self._packing) for entry in entries]
                values = pack([value for _, _, value, _ in entries], self._packing)
            self._send(["done", [(number, code, *times) for number, code, _, times in entries], spent_s], values)


def _checked(
    entry: tuple[int, int, object, tuple[float, float, int]], packing: Packing
) -> tuple[int, int, object, Any]:
    """An outcome that can travel: a result that cannot becomes an error that says so."""
    number, code, value, times = entry
    try:
        pack(value, packing)
    except Exception as error:  # noqa: BLE001 - what pickle raises depends on the object
        of_type = type(value[0] if isinstance(value, list) and code == PART else value).__name__
        error.add_note(f"overlapped: a result of type {of_type} cannot be sent to the run's process")
        return number, SPOILED if code == PART else ERROR, tuple(pack_error(error, packing)), times
    return entry


def coded(task: Task, value: Any, lane: str) -> tuple[int, object]:
    """What a call gave, as code and value; refused kinds of results are errors, as is all that was not taken apart."""
    if type(value) not in PLAIN_TYPES and (task.many or is_awaitable(value) or is_generator(value)):
        error = refuse_result(value, task.described, lane, verb=task.verb)
        assert error is not None
        raise error
    if task.verb == "tap":
        return OK, None
    if task.verb == "filter":
        return OK, bool(value)
    return OK, value
