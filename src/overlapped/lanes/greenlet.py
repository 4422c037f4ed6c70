"""Calls in greenlets, in processes that gevent has patched: blocking code by the thousand, none of it changed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.links import ProcessLink, refuse_where_there_are_none, usable_cpus
from overlapped._engine.parcels import BY_NAME
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.links import Link, OnFrame, OnGone
    from overlapped._engine.serving import Task

KINDS: Final = frozenset({"plain", "generator"})
"""Kinds of functions that this lane takes."""

PACKING: Final = BY_NAME
"""As for other processes of this machine."""

PRELUDE: Final = "from gevent import monkey; monkey.patch_all()"
"""Before all else: what has been imported keeps the sockets and locks that it found."""

DATABASE_WAITS: Final = "psycopg2.extensions"
"""The module whose C code waits for PostgreSQL by itself, unless it is told how."""


def refuse_here(at: str) -> None:
    """Refuse where no processes can be started, or gevent is not installed.

    Raises:
        UsageError: with what to install.
    """
    refuse_where_there_are_none(at, "greenlet")
    if not is_installed():
        raise UsageError(f"{at}: on=\"greenlet\" needs gevent; install it with  pip install 'overlapped[gevent]'")


def is_installed() -> bool:
    """True if gevent can be imported; that is left to the hosts."""
    return "gevent" in sys.modules or importlib.util.find_spec("gevent") is not None


def launch(on_frame: OnFrame, on_gone: OnGone) -> Link:
    """Start a host."""
    return ProcessLink(asyncio.get_running_loop(), "greenlet", PRELUDE, on_frame, on_gone)


def most_hosts() -> int:
    """As many as there are CPUs: the greenlets of one process share one."""
    return usable_cpus()


def can_cancel(kind: str) -> bool:  # noqa: ARG001 - every lane is asked
    """True: a call ends where it waits, or loses its process."""
    return True


async def begin() -> None:
    """Nothing: a process needs no other."""


def is_single(kind: str) -> bool:
    """Never: a host makes many calls at once, whatever their kind."""
    return kind not in KINDS


def serve(wire: BlockingWire, task: Task) -> None:
    """In the host: make the calls."""
    from overlapped._engine.greenlets import Greenlets

    make_psycopg2_wait()
    Greenlets(wire, task, "greenlet").serve()


def make_psycopg2_wait() -> None:
    """Let psycopg2 wait in the hub, if it has been imported, or as soon as it is."""
    module = sys.modules.get(DATABASE_WAITS)
    if module is not None:
        _tell_how_to_wait(module)
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the module as ever, and sets its wait callback once it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != DATABASE_WAITS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _tell_how_to_wait(module)

            loader.exec_module = exec_module
        return spec


def _tell_how_to_wait(extensions: Any) -> None:
    """What psycopg2 documents as coroutine support: it asks us to wait for its socket, again and again."""
    from gevent.socket import wait_read, wait_write

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != extensions.POLL_OK:
            if state == extensions.POLL_READ:
                wait_read(connection.fileno())
            elif state == extensions.POLL_WRITE:
                wait_write(connection.fileno())
            else:
                raise connection.OperationalError(f"psycopg2 is in a state that nobody knows: {state}")

    extensions.set_wait_callback(wait)
