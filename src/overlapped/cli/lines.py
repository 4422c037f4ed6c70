"""Results as JSON lines on stdout, written by a thread: a slow reader holds up the flow, never its loop."""

from __future__ import annotations

import asyncio
import errno
import json
import sys
import threading
from typing import TYPE_CHECKING

from overlapped.cli.say import say

if TYPE_CHECKING:
    from typing import TextIO

MOST_WAITING_CHARS = 1 << 20
"""Text that may wait for the reader: many writes of a pipe's 64 KiB, little memory."""


class OutputLost(Exception):
    """stdout could not be written; the cause says why."""


class JsonLines:
    """Writes each result as one line; made and used on the loop, written on a thread of its own."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = stream or sys.stdout
        self._loop = asyncio.get_running_loop()
        self._waiting: list[str] = []
        self._chars = 0
        self._ended = False
        self._error: Exception | None = None
        self._change = threading.Condition()
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self._odd: set[str] = set()
        # daemon: a reader that never reads must not keep the process from ending
        self._thread = threading.Thread(target=self._write_all, name="overlapped-stdout", daemon=True)
        self._thread.start()

    async def write(self, result: object) -> None:
        """Hand one result to the writer; waits while too much is unread.

        Raises:
            OutputLost: an earlier line could not be written.
        """
        line = self._line(result)
        with self._change:
            self._waiting.append(line)
            self._chars += len(line)
            self._change.notify()
        while self._chars > MOST_WAITING_CHARS and self._error is None:
            self._room.clear()
            await self._room.wait()
        self._check()

    async def finish(self) -> None:
        """Wait until every line is written.

        Raises:
            OutputLost: a line could not be written.
        """
        with self._change:
            self._ended = True
            self._change.notify()
        await self._over.wait()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise OutputLost from self._error

    def _line(self, result: object) -> str:
        try:
            return json.dumps(result, default=self._as_text, allow_nan=False) + "\n"
        except (TypeError, ValueError, RecursionError):  # a key that is no text, NaN, a circle
            return json.dumps(self._as_text(result)) + "\n"

    def _as_text(self, value: object) -> str:
        kind = type(value).__name__
        if kind not in self._odd:
            if not self._odd:
                say(f"a result holds a {kind}, which JSON cannot: such values are written as their text")
            self._odd.add(kind)
        return str(value)

    def _write_all(self) -> None:
        """The thread: write whatever waits, in one go, until the end or an error."""
        while True:
            with self._change:
                while not self._waiting and not self._ended:
                    self._change.wait()
                text = "".join(self._waiting)
                ended = self._ended
                self._waiting.clear()
                self._chars = 0
            try:
                if self._stream is None:
                    raise OSError(errno.EBADF, "it is closed")
                self._stream.write(text)
                self._stream.flush()
            except Exception as error:  # noqa: BLE001 - disk full, closed, None: whatever it is, tell
                self._error = error
                ended = True
            try:
                self._loop.call_soon_threadsafe(self._room.set)
                if ended:
                    self._loop.call_soon_threadsafe(self._over.set)
            except RuntimeError:
                return  # the loop has closed: nobody waits any more
            if ended:
                return
