"""io_uring, by the three system calls' own interface: two rings of memory that are shared with the kernel.

Written here since the one package for it is compiled for a single kind of CPU. The layout is that of
`linux/io_uring.h`, the same on every machine; what an operation needs stays alive until it is done.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from overlapped.compare.base import NotRunError

if TYPE_CHECKING:
    import socket

MOST_ENTRIES: Final = 4_096
"""Places in the ring: more than that are submitted in portions."""

SETUP, ENTER = 425, 426  # numbers of the system calls, on every architecture
READ, SEND, RECEIVE = 22, 26, 27  # operations
PARAMETERS: Final = struct.Struct("=10I 8IQ 8IQ")  # itself, where things are in the submission ring, and in the other
ENTRY: Final = struct.Struct("=BBHiQQIIQHHiQQ")  # one operation
DONE: Final = struct.Struct("=QiI")  # one that is done: its name, its result, flags
ONE_RING: Final = 1  # a feature of every kernel since 5.4: both rings in one piece of memory
ENTRIES_AT: Final = 0x10000000
WAIT: Final = 1


class Operations:
    """What is asked for goes into one ring, what is done comes out of the other.

    Raises:
        NotRunError: the kernel has no io_uring, or forbids it.
    """

    def __init__(self, entries: int) -> None:
        self._call: Any = ctypes.CDLL(None, use_errno=True).syscall
        asked = ctypes.create_string_buffer(PARAMETERS.size)
        self._ring = self._call(SETUP, min(max(1, entries), MOST_ENTRIES), asked)
        if self._ring < 0:
            why = os.strerror(ctypes.get_errno())
            raise NotRunError(f"io_uring_setup: {why}; the kernel or container forbids it")
        told = PARAMETERS.unpack(asked.raw)
        self._places, finished, features = told[0], told[1], told[5]
        if not features & ONE_RING:
            os.close(self._ring)
            raise NotRunError("io_uring_setup: this kernel is older than 5.4 and forbids one map for both rings")
        submit, done = told[10:19], told[19:28]  # offsets: head, tail, mask, entries, flags, dropped, array | cqes
        self._head_at, self._tail_at, array_at = submit[0], submit[1], submit[6]
        self._done_head_at, self._done_tail_at, self._done_at = done[0], done[1], done[5]
        self._mask, self._done_mask = self._places - 1, finished - 1
        size = max(array_at + 4 * self._places, self._done_at + DONE.size * finished)
        self._memory = mmap.mmap(self._ring, size)
        self._entries = mmap.mmap(self._ring, ENTRY.size * self._places, offset=ENTRIES_AT)
        struct.pack_into(f"={self._places}I", self._memory, array_at, *range(self._places))
        self._tail = self._done_head = self._unsent = self._number = 0
        self._under_way: dict[int, tuple[int, object]] = {}  # the caller's name of each, and what it reads or fills

    def send(self, connection: socket.socket, data: bytes, name: int) -> None:
        """Send these bytes, or some of them."""
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        self._ask(SEND, connection.fileno(), address, len(data), 0, name, data)

    def receive(self, connection: socket.socket, buffer: bytearray, name: int) -> None:
        """Fill the buffer with what comes."""
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self._ask(RECEIVE, connection.fileno(), ctypes.addressof(memory), len(buffer), 0, name, memory)

    def read(self, descriptor: int, buffer: bytearray, name: int, at: int = 0) -> None:
        """Fill the buffer from a file."""
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self._ask(READ, descriptor, ctypes.addressof(memory), len(buffer), at, name, memory)

    def wait(self) -> tuple[int, int]:
        """Name and result of an operation that is done.

        Raises:
            OSError: it failed.
        """
        while self._done_head == self._word(self._done_tail_at):
            self._enter(1)
        at = self._done_at + DONE.size * (self._done_head & self._done_mask)
        number, result, _ = DONE.unpack_from(self._memory, at)
        self._done_head = self._done_head + 1 & 0xFFFFFFFF
        struct.pack_into("=I", self._memory, self._done_head_at, self._done_head)
        name, _ = self._under_way.pop(number)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return name, result

    def close(self) -> None:
        """Wait until the kernel is done with every buffer: afterwards it is somebody else's memory."""
        while self._under_way:
            with suppress(OSError):
                self.wait()
        self._entries.close()
        self._memory.close()
        os.close(self._ring)

    def _ask(self, what: int, descriptor: int, address: int, length: int, at: int, name: int, holds: object) -> None:  # noqa: PLR0917 - an entry's fields
        while self._tail - self._word(self._head_at) & 0xFFFFFFFF >= self._places:
            self._enter(0)
        self._number += 1
        place = ENTRY.size * (self._tail & self._mask)
        ENTRY.pack_into(self._entries, place, what, 0, 0, descriptor, at, address, length, 0, self._number, *[0] * 5)
        self._under_way[self._number] = (name, holds)
        self._tail = self._tail + 1 & 0xFFFFFFFF
        struct.pack_into("=I", self._memory, self._tail_at, self._tail)
        self._unsent += 1

    def _enter(self, least: int) -> None:
        """Hand over what was asked for, and wait until so many are done."""
        taken = self._call(ENTER, self._ring, self._unsent, least, WAIT if least else 0, None, 0)
        if taken >= 0:
            self._unsent -= taken
        elif ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN, errno.EBUSY):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def _word(self, at: int) -> int:
        value: int = struct.unpack_from("=I", self._memory, at)[0]
        return value
