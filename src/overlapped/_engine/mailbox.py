"""A host's end of a way on which it only answers: frames are brought to it, and those that it has are fetched."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from overlapped._engine.frames import frame, unframed

if TYPE_CHECKING:
    from collections.abc import Callable

    OnFrame = Callable[[list[Any], memoryview], None]


class Mailbox:
    """Frames for a host, and frames from it. Used on one loop, as a `Wire` is.

    What lies in it is bounded by the run's credits: it sends no more jobs than have room.
    """

    def __init__(self) -> None:
        self._in: deque[tuple[list[Any], memoryview]] = deque()
        self._early: dict[int, bytes] = {}
        self._expected = 0
        self._has_in = asyncio.Event()
        self._out: list[bytes] = []
        self._has_out = asyncio.Event()
        self._on_frame: OnFrame | None = None
        self._is_closed = False

    # -- for the run ------------------------------------------------------------------------------------

    def bring(self, number: int, frames: bytes) -> None:
        """Frames from the run. They may come in another order than they were sent: `number` counts them."""
        self._early[number] = frames
        while (now := self._early.pop(self._expected, None)) is not None:
            self._expected += 1
            self._in.extend(unframed(now))
        self._has_in.set()
        self._deliver()

    async def fetch(self) -> bytes:
        """Wait for frames to the run; b"" if none will come any more."""
        while not self._out and not self._is_closed:
            self._has_out.clear()
            await self._has_out.wait()
        frames, self._out = b"".join(self._out), []
        return frames

    # -- for the host -----------------------------------------------------------------------------------

    async def next(self) -> tuple[list[Any], memoryview]:
        """The next frame, before `on_loop`."""
        while not self._in:
            self._has_in.clear()
            await self._has_in.wait()
        return self._in.popleft()

    def on_loop(self, loop: asyncio.AbstractEventLoop, on_frame: OnFrame, on_end: Callable[[], None]) -> Mailbox:
        """From the next turn on, `on_frame` is told of every frame. When the run is gone, so is this process."""
        self._on_frame = on_frame
        loop.call_soon(self._deliver)
        return self

    def _deliver(self) -> None:
        while self._on_frame is not None and self._in:
            self._on_frame(*self._in.popleft())

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """A frame for the run."""
        self._out += frame(about, values)
        self._has_out.set()

    async def drained(self) -> None:
        """What has been sent can still be fetched after `close`."""

    def close(self) -> None:
        """Nothing more will be sent."""
        self._is_closed = True
        self._has_out.set()
