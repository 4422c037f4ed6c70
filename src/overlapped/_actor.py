"""What a Ray actor of ours runs: it serves one stage of a run until it is ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from overlapped._engine.host import Work
from overlapped._engine.mailbox import Mailbox
from overlapped._engine.relay import Relay
from overlapped._engine.serving import Task
from overlapped._engine.together import Together
from overlapped._version import __version__
from overlapped.errors import UsageError
from overlapped.lanes.ray import about
from overlapped.lanes.thread import ThreadPort

if TYPE_CHECKING:
    from overlapped._engine.ports import Port
    from overlapped.lanes.ray import About


class Actor:
    """A host. Ray calls its methods; what they carry are frames, as through the socket of a process of ours.

    Args:
        version: of the run: the frames of another one may be different.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._mailbox = Mailbox()
        self._life: asyncio.Task[None] | None = None

    async def about(self) -> About:
        """Who this is."""
        return about()

    async def clock(self) -> float:
        """This process's clock, s."""
        return time.perf_counter()

    async def tell(self, number: int, frames: bytes) -> None:
        """Take frames; `number` counts the calls of this method, since Ray does not keep their order."""
        if self._life is None:
            self._life = asyncio.get_running_loop().create_task(self._live())
        self._mailbox.bring(number, frames)

    async def hear(self) -> tuple[bool, bytes]:
        """Wait for frames; True with the last ones."""
        frames = await self._mailbox.fetch()
        is_over = self._life is not None and self._life.done()
        if is_over and self._life is not None:
            self._life.result()  # an error in it is the run's to hear of
        return is_over, frames

    async def _live(self) -> None:
        try:
            await self._serve()
        finally:
            asyncio.get_running_loop().call_soon(self._mailbox.close)  # when this task is done

    async def _serve(self) -> None:
        (_, told), _ = await self._mailbox.next()
        work = Work(*told)
        try:
            if self._version != __version__:
                raise UsageError(
                    f"a node of the Ray cluster has overlapped {__version__}, the run {self._version}; install the "
                    f"same there, or write ray.init(runtime_env={{'pip': ['overlapped=={self._version}']}})"
                )
            task = Task(work)
        except BaseException as error:  # noqa: BLE001 - the module of the function is not there; the run ends with it
            from overlapped._engine.parcels import pack_error

            self._mailbox.send(["broken", tuple(pack_error(error, work.packing))])
            return
        if task.described.kind in ("plain", "generator"):
            await Relay(self._mailbox, task, "ray", _threads).live()
        else:
            await Together(self._mailbox, task).live()


def _threads(bind: Any, name: str, *, many: bool, on_cleanup_error: Any) -> Port:
    return ThreadPort(bind, name, clock=time.perf_counter, many=many, on_cleanup_error=on_cleanup_error)
