"""The other side of a port to processes: what a host does with the frames it gets.

`Answers` collects outcomes and sends them together. What makes the calls stands in `single` and `together`.
"""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import PLAIN_TYPES, describe, is_awaitable, is_generator, refuse_result
from overlapped._engine.host import ERROR, OK
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
    number, _, value, times = entry
    try:
        pack(value, packing)
    except Exception as error:  # noqa: BLE001 - what pickle raises depends on the object
        error.add_note(f"overlapped: a result of type {type(value).__name__} cannot be sent to the run's process")
        return number, ERROR, tuple(pack_error(error, packing)), times
    return entry


def coded(task: Task, value: Any, lane: str) -> tuple[int, object]:
    """What a call gave, as code and value; refused kinds of results are errors."""
    if type(value) not in PLAIN_TYPES and (is_awaitable(value) or (not task.many and is_generator(value))):
        error = refuse_result(value, task.described, lane, verb=task.verb)
        assert error is not None
        raise error
    if task.verb == "tap":
        return OK, None
    if task.verb == "filter":
        return OK, bool(value)
    return OK, value
