"""A host's entry point: started by name, it serves one lane until its run ends or is gone."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

from overlapped._engine.frames import BlockingWire
from overlapped._engine.host import Work
from overlapped._engine.parcels import AS_IMPORTED, LazyMain, pack_error
from overlapped._engine.serving import Task

if TYPE_CHECKING:
    from overlapped._engine.frames import BlockingWire as Channel


PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    """Serve `overlapped.lanes.<lane>`. Arguments: the socket's descriptor, the lane, `sys.path`."""
    _end_with_parent()
    descriptor, lane = int(sys.argv[1]), sys.argv[2]
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as sock:
        wire = BlockingWire(sock)
        try:
            _serve(wire, lane)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(1)  # the run is gone: nobody wants an answer


def _end_with_parent() -> None:
    """Have the kernel end this process with the thread that started it, the loop's, which outlives its hosts.

    The end of the socket says the same, but not to a process whose call keeps the interpreter.
    """
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, a C library without prctl
        return


def _serve(wire: Channel, lane: str) -> None:
    (_, told), _ = wire.next()
    work = Work(*told)
    sys.argv[:] = work.argv
    sys.modules["__main__"] = sys.modules[AS_IMPORTED] = LazyMain(work.main)
    try:
        task = Task(work)
    except BaseException as error:  # noqa: BLE001 - the module of the function, or what it imports; the run ends with it
        wire.send(["broken", tuple(pack_error(error))])
        return
    importlib.import_module(f"overlapped.lanes.{lane}").serve(wire, task)
