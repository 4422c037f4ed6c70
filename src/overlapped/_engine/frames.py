"""Frames between a run and its hosts: what each is about, and the values it carries, pickled apart.

The two are apart because values are the user's and may turn out unreadable; then it is still known whose
they were. `Wire` moves frames on a loop, `BlockingWire` in threads.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

PROTOCOL: Final = 5

READ_BYTES: Final = 256 * 2**10
"""The buffer of a wire; a larger frame gets one of its own size, so that it is received where it is read."""

READS: Final = 4
"""So often a wire reads before others on its loop have their turn."""

DRAIN_S: Final = 0.001
"""How often a wire that is about to be closed looks whether all has been taken."""

_HEADER: Final = struct.Struct("!IQ")  # bytes of the first part, bytes of the values


def frame(about: list[Any], values: bytes = b"") -> list[bytes]:
    """The pieces of one frame, to be sent one after the other."""
    head = pickle.dumps(about, PROTOCOL)
    return [_HEADER.pack(len(head), len(values)), head, values]


def unframed(frames: bytes) -> Iterator[tuple[list[Any], memoryview]]:
    """The frames of a piece that holds whole ones."""
    view, start = memoryview(frames), 0
    while start < len(view):
        about, values = _HEADER.unpack_from(view, start)
        middle = start + _HEADER.size + about
        yield pickle.loads(view[start + _HEADER.size : middle]), view[middle : middle + values]  # noqa: S301 - the way to it is private
        start = middle + values


class Receiver:
    """Bytes to frames."""

    def __init__(self) -> None:
        self._buffer = bytearray(READ_BYTES)
        self._start = self._end = 0

    def room(self) -> memoryview:
        """Where the next bytes are to be received; values given out before are no longer valid."""
        have = self._end - self._start
        need = self._needed(have)
        if not have:
            if len(self._buffer) > READ_BYTES:
                self._buffer = bytearray(READ_BYTES)
            self._start = self._end = 0
        elif self._start + need > len(self._buffer):
            rest = self._buffer[self._start : self._end]
            if need > len(self._buffer):
                self._buffer = bytearray(need)
            self._buffer[:have] = rest
            self._start, self._end = 0, have
        return memoryview(self._buffer)[self._end :]

    def _needed(self, have: int) -> int:
        """Bytes of the frame that has begun."""
        if have < _HEADER.size:
            return _HEADER.size
        about, values = _HEADER.unpack_from(self._buffer, self._start)
        return int(_HEADER.size + about + values)

    def received(self, count: int) -> Iterator[tuple[list[Any], memoryview]]:
        """The frames that are whole, now that `count` more bytes are there."""
        self._end += count
        while (have := self._end - self._start) >= _HEADER.size and have >= (total := self._needed(have)):
            about, _ = _HEADER.unpack_from(self._buffer, self._start)
            view = memoryview(self._buffer)[self._start + _HEADER.size : self._start + total]
            self._start += total
            yield pickle.loads(view[:about]), view[about:]  # noqa: S301 - a private socket to a process of our own


class Wire:
    """One end, on a loop: nothing here blocks; what the other end does not take yet waits in a queue.

    The queue's bound is the sender's: a port sends no more than its credits.

    Args:
        on_frame: told of every frame; the values are valid during the call only.
        on_end: told once, when the other end is gone.
        receiver: what came through this socket before and has not been looked at.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[list[Any], memoryview], None],
        on_end: Callable[[], None],
        receiver: Receiver | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._receiver = receiver or Receiver()
        self._unsent: deque[memoryview] = deque()
        self._is_closed = False
        self._has_more = False  # to read, in the next turn of the loop
        self._is_last = False  # what is there now is all that will come
        loop.add_reader(sock.fileno(), self._readable)
        if receiver is not None:
            loop.call_soon(self._received, 0)

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """Send a frame, now or as soon as the other end takes it."""
        if self._is_closed:
            return
        is_waiting = bool(self._unsent)
        self._unsent.extend(memoryview(piece) for piece in frame(about, values) if piece)
        if not is_waiting:
            self._write()
            if self._unsent and not self._is_closed:
                self._loop.add_writer(self._sock.fileno(), self._write)

    def _write(self) -> None:
        unsent = self._unsent
        while unsent:
            try:
                sent = self._sock.sendmsg(islice(unsent, 16))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # it is gone
                unsent.clear()
                self._read_soon()
                break
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = unsent[0][sent:]
        if not self._is_closed:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        if not self._has_more:
            self._read()

    def _read_soon(self) -> None:
        if not self._has_more:
            self._has_more = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        """Read all there is: of a peer that died with something unread, uvloop tells once, be there bytes or not."""
        self._has_more = False
        for _ in range(READS):
            if self._is_closed:
                return
            try:
                count = self._sock.recv_into(self._receiver.room())
            except (BlockingIOError, InterruptedError):
                if not self._is_last:
                    return
                count = 0
            except OSError:  # killed in the middle of something
                count = 0
            if not count:
                self.close()
                self._on_end()
                return
            self._received(count)
        self._read_soon()

    def _received(self, count: int) -> None:
        for about, values in self._receiver.received(count):
            self._on_frame(about, values)
            if self._is_closed:
                return

    def end(self) -> None:
        """Whoever was at the other end has ended, though somebody may hold it open: read what is there, then end."""
        self._is_last = True
        self._read_soon()

    async def drained(self) -> None:
        """Wait until the other end has taken all."""
        while self._unsent:
            await asyncio.sleep(DRAIN_S)

    def close(self) -> None:
        """Hang up; the other end sees the end of the file."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()


class BlockingWire:
    """One end, for threads: any of them may send, one of them reads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._receiver = Receiver()
        self._lock = threading.Lock()

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """Send a frame; waits until it has been taken."""
        pieces = frame(about, values)
        with self._lock:
            if len(values) < READ_BYTES:
                self._sock.sendall(b"".join(pieces))
            else:
                for piece in pieces:
                    self._sock.sendall(piece)

    def left(self) -> Iterator[tuple[list[Any], memoryview]]:
        """The frames that came with the last one that `next` gave."""
        return self._receiver.received(0)

    def frames(self) -> Iterator[tuple[list[Any], memoryview]]:
        """The frames that come in one read, waiting for the first byte.

        Raises:
            EOFError: the other end is gone.
        """
        try:
            count = self._sock.recv_into(self._receiver.room())
        except ConnectionError:
            count = 0
        if not count:
            raise EOFError
        return self._receiver.received(count)

    def next(self) -> tuple[list[Any], memoryview]:
        """The next frame.

        Raises:
            EOFError: the other end is gone.
        """
        while True:
            for one in self.left():
                return one
            for one in self.frames():
                return one

    def fileno(self) -> int:
        """For `select`."""
        return self._sock.fileno()

    def on_loop(
        self,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[list[Any], memoryview], None],
        on_end: Callable[[], None],
    ) -> Wire:
        """The same socket as a `Wire`; this one must not be used after that."""
        return Wire(self._sock, loop, on_frame, on_end, self._receiver)
