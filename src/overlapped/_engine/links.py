"""A process of ours: started fresh, spoken to through a socket, ended when the socket is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

from overlapped._engine.frames import Wire
from overlapped._engine.loop import is_patched
from overlapped.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    OnFrame = Callable[[list[Any], memoryview], None]
    OnGone = Callable[[str], None]

REAP_S: Final = (0.001, 0.05)
"""How soon to look again whether a process that hung up has ended, first and later."""

WATCH_S: Final = 0.5
"""So often to look whether a process has ended without hanging up: what it has forked may hold its socket open."""

AHEAD_S: Final = 0.004
"""So much work lies ready in a host beyond what it runs: it covers the way there and back."""


class Link(Protocol):
    """The way to one host."""

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """Send a frame; never blocks."""

    def kill(self) -> None:
        """End the host at once, whatever it does."""

    @property
    def is_gone(self) -> bool:
        """True if the host has ended and nothing is left of it."""
        ...

    @property
    def place(self) -> str:
        """What it is, for messages: "process 123"."""
        ...

    @property
    def ahead_s(self) -> float:
        """Work that is to lie ready in it, s: it covers the way there and back."""
        ...

    @property
    def offset_s(self) -> float:
        """What makes its clock ours, when added: other machines count from another moment."""
        ...


class ProcessLink:
    """A Python of its own that serves one lane.

    It is started by exec, never by fork alone: a forked loop, or a lock that another thread held, would not work.
    It has a process group of its own, so that Ctrl-C in a terminal asks the run, not each of its processes.

    Args:
        lane: whose hosts these are; `overlapped.lanes.<lane>` serves.
        prelude: what the process executes before it imports anything of ours.

    Raises:
        UsageError: gevent has patched this process.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lane: str, prelude: str, on_frame: OnFrame, on_gone: OnGone
    ) -> None:
        if is_patched():  # its `subprocess` waits for a hub, which a loop does not turn
            raise UsageError(
                f'on="{lane}" cannot start processes from one that gevent has patched; leave out monkey.patch_all(): '
                f'on="greenlet" patches processes of its own'
            )
        self._loop = loop
        self._on_gone = on_gone
        self.is_gone = False
        ours, theirs = socket.socketpair()
        try:
            code = f"import sys; sys.path[:] = sys.argv[3:]\n{prelude}\nfrom overlapped._child import main; main()"
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own code
                [sys.executable, *_flags(), "-c", code, str(theirs.fileno()), lane, *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._wire = Wire(ours, loop, on_frame, self._ended)
        self._watch = loop.call_later(WATCH_S, self._look)

    @property
    def ahead_s(self) -> float:
        """See there."""
        return AHEAD_S

    @property
    def offset_s(self) -> float:
        """All processes of a machine have one clock."""
        return 0.0

    @property
    def place(self) -> str:
        """For messages."""
        return f"process {self._process.pid}"

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """Send a frame; never blocks."""
        self._wire.send(about, values)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _look(self) -> None:
        if self._process.poll() is None:
            self._watch = self._loop.call_later(WATCH_S, self._look)
        else:
            self._wire.end()

    def _ended(self) -> None:
        self._watch.cancel()
        self._reap(REAP_S[0])

    def _reap(self, again_s: float) -> None:
        code = self._process.poll()
        if code is None:
            self._loop.call_later(again_s, self._reap, min(2 * again_s, REAP_S[1]))
            return
        self.is_gone = True
        self._on_gone(_how(code))


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def _flags() -> list[str]:
    """The interpreter options of this process, as multiprocessing hands them on."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: SLF001 - no public way


def refuse_where_there_are_none(at: str, lane: str) -> None:
    """Refuse a lane of processes where they cannot be started.

    Raises:
        UsageError: on Windows, and in a Python that is part of another program.
    """
    if os.name != "posix":
        raise UsageError(f'{at}: on="{lane}" needs socket pairs that a new process inherits, which only Unix has')
    if not sys.executable:
        raise UsageError(f'{at}: on="{lane}" needs sys.executable, which this Python does not tell')


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
