"""Traps of others' loops and clients: what to write instead, told from what calls and clients show; imports nothing."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

from overlapped._engine.failure import add_note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlapped._engine.crew import Crew

LOOK_S: Final = (0.25, 4.0)
"""When Tornado's client is looked at, first, and at most between two looks: a look costs some us."""

_NESTED: Final = (
    "this event loop is already running",  # asyncio and uvloop
    "cannot run the event loop while another loop is running",
    "asyncio.run() cannot be called from a running event loop",
    "runner.run() cannot be called from a running event loop",
)


def explain_nested(error: BaseException, stage: str, loop: asyncio.AbstractEventLoop) -> None:
    """Say what to write instead of running a loop inside of the flow's loop, if that is why the call failed."""
    if type(error) is not RuntimeError or not str(error).lower().startswith(_NESTED):
        return
    add_note(
        error,
        f"overlapped: {stage} runs a loop (IOLoop.run_sync, run_until_complete, asyncio.run) on the thread of the "
        f"flow's own loop; make it an async def and await what it runs: `return await fetch(item)` instead of "
        f"`return IOLoop.current().run_sync(lambda: fetch(item))`",
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # Python 3.13.0: an attempt to run a loop inside of another makes asyncio forget that one
        asyncio._set_running_loop(loop)  # noqa: SLF001 - as loops do it


class ClientWatch:
    """Looks whether the calls of a stage wait inside of Tornado's HTTP client, which makes 10 requests at once.

    To a controller it looks as if 10 calls in flight were best, and later ones fail with "Timeout in request queue".

    Args:
        crew: whose calls it looks at.
        given: the resources that they use: clients may be among them.
        say: told what to write, once.
    """

    def __init__(self, crew: Crew, given: Iterable[object], say: Callable[[Literal["client"], str, str], None]) -> None:
        self._crew = crew
        self._given = list(given)
        self._say = say

    def begin(self) -> None:
        """Look from a little later on; nothing real waits on a virtual clock."""
        if not hasattr(self._crew.scope.loop, "overlapped_clock"):
            self._crew.scope.later(LOOK_S[0], lambda: self._look(LOOK_S[0]))

    def _look(self, after_s: float) -> None:
        crew = self._crew
        if crew.ended or crew.scope.closing:
            return
        calling = crew.shape.places()[0]
        for client in self._clients():
            most, waiting = _fullness(client)
            if waiting and calling > most:
                self._say(
                    "client",
                    f"Tornado's {type(client).__name__} makes at most max_clients={most} requests at once; of "
                    f"{calling} calls in flight, {waiting} only wait inside of it",
                    "AsyncHTTPClient.configure(None, max_clients=1000) before it is first used",
                )
                return
        after_s = min(2 * after_s, LOOK_S[1])
        crew.scope.later(after_s, lambda: self._look(after_s))

    def _clients(self) -> list[Any]:
        """This loop's own client, and those among the resources."""
        module, ioloop = sys.modules.get("tornado.httpclient"), sys.modules.get("tornado.ioloop")
        if module is None or ioloop is None:
            return []
        kind: Any = module.AsyncHTTPClient
        clients = [client for client in self._given if isinstance(client, kind)]
        loop = ioloop.IOLoop.current(instance=False)
        if loop is not None and loop in (known := kind._async_clients()):  # noqa: SLF001 - the public way makes one
            clients.append(known[loop])
        return clients


def _fullness(client: Any) -> tuple[int, int]:
    """Requests at once at most, and how many wait: of the simple client, and of the one on curl."""
    if hasattr(client, "_curls"):
        return len(client._curls), len(client._requests)  # noqa: SLF001 - it tells nobody else
    return getattr(client, "max_clients", sys.maxsize), len(getattr(client, "queue", ()))
