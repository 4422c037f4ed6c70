"""What a model is given, what it tells about itself, and how it says that it cannot run."""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from overlapped.errors import OverlappedError

INSTALL: Final = "pip install 'overlapped[compare]'"
"""What brings every package that a model needs."""

Cell = Literal[
    "synchronous, blocking", "synchronous, non-blocking", "asynchronous, blocking", "asynchronous, non-blocking"
]


class NotRunError(Exception):
    """A model cannot run on this machine: the reason, as it is shown in its row."""


class BadAnswerError(Exception):
    """The server answered, but not with the page: another status, or no HTTP."""


class ComparisonError(OverlappedError):
    """A comparison could not be made or does not hold.

    Attributes:
        is_usage: True if nothing was measured yet: what was asked for cannot be done.
    """

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


@dataclass(frozen=True, slots=True)
class About:
    """What a model tells about itself: every file in `models/` has one, named ABOUT.

    Attributes:
        cell: its cell of the 2x2: who waits (synchronous or not), and whether a call returns at once (blocking or not).
        control: who has control while the I/O goes on.
        notice: who tells that it is done.
        one_at_a_time: True if it has one request in flight, whatever it is told: measured on a part.
        has_number: False if it finds by itself how many to have in flight.
        imports: packages loaded before the clock starts; a missing one is why the model does not run.
        first: a line of Python run before anything else is imported.
        has_tls: False if it speaks plain HTTP only.
    """

    cell: Cell
    control: str
    notice: str
    one_at_a_time: bool = False
    has_number: bool = True
    imports: tuple[str, ...] = ()
    first: str = ""
    has_tls: bool = True


class Work:
    """So many numbered pieces of work: a model calls `begin` and `end` for each, in any order, from any thread.

    Attributes:
        began_s: when each piece began, s since the start of the clock.
        ended_s: when each piece ended.
        results: the bytes of each piece, in its place.
        concurrency: how many to have in flight, for a model that needs the number.
        vain_asks: how often the kernel was asked for something that was not there yet.
        found: the limit that a model found by itself, if it did.
        notes: what else it has to say about its run.
        figures: numbers of its own, by name.
    """

    def __init__(self, count: int, concurrency: int) -> None:
        self.concurrency = concurrency
        self.began_s = [0.0] * count
        self.ended_s = [0.0] * count
        self.results: list[bytes | None] = [None] * count
        self.vain_asks = 0
        self.found: int | None = None
        self.notes: list[str] = []
        self.figures: dict[str, float] = {}
        self.start_s = 0.0

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self.results)

    def start(self) -> None:
        """The clock starts."""
        self.start_s = time.perf_counter()

    def begin(self, number: int) -> None:
        """Piece `number` is begun now."""
        self.began_s[number] = time.perf_counter() - self.start_s

    def end(self, number: int, result: bytes) -> None:
        """Piece `number` is done, with this result."""
        self.ended_s[number] = time.perf_counter() - self.start_s
        self.results[number] = result


class Crawl(Work):
    """Pages to be fetched from one server.

    Attributes:
        urls: their addresses.
        paths: the same without scheme and host.
        host: the server's name or address.
        port: its port.
        is_tls: True for https.
    """

    def __init__(self, urls: list[str], concurrency: int) -> None:
        super().__init__(len(urls), concurrency)
        self.urls = urls
        parts = [urlsplit(url) for url in urls]
        self.paths = [(part.path or "/") + (f"?{part.query}" if part.query else "") for part in parts]
        self.host = parts[0].hostname or "127.0.0.1"
        self.port = parts[0].port or (443 if parts[0].scheme == "https" else 80)
        self.is_tls = parts[0].scheme == "https"
        self._address: list[Any] = []

    def connect(self) -> socket.socket:
        """A connection to the server; the caller waits until it is there."""
        connection = socket.create_connection((self.host, self.port))
        if self.is_tls:
            import ssl

            return ssl.create_default_context().wrap_socket(connection, server_hostname=self.host)
        return connection

    def connect_soon(self) -> socket.socket:
        """A non-blocking socket whose connection is being made: the first send tells whether it could be."""
        if not self._address:  # looked up once: a look-up blocks
            self._address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[:1]
        family, kind, protocol, _, address = self._address[0]
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        failed = connection.connect_ex(address)
        if failed not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            connection.close()
            raise OSError(failed, os.strerror(failed))
        return connection

    def request(self, number: int) -> bytes:
        """The bytes that ask for page `number`."""
        host = f"[{self.host}]" if ":" in self.host else self.host  # an IPv6 address
        lines = f"GET {self.paths[number]} HTTP/1.1\r\nHost: {host}:{self.port}\r\nAccept-Encoding: identity\r\n\r\n"
        return lines.encode("latin-1")


class Files(Work):
    """Files to be read whole.

    Attributes:
        paths: where they are.
    """

    def __init__(self, paths: list[str], concurrency: int) -> None:
        super().__init__(len(paths), concurrency)
        self.paths = paths


def checked(status: int, path: str, body: bytes) -> bytes:
    """`body`, if the status is 200.

    Raises:
        BadAnswerError: it is another one.
    """
    if status != 200:
        raise BadAnswerError(f"the server answered {status} for {path}")
    return body


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far.

    Attributes:
        cpu_s: user and system time, s.
        voluntary: context switches because it waited.
        involuntary: context switches because the kernel took the core away.
    """

    cpu_s: float
    voluntary: int
    involuntary: int

    @classmethod
    def now(cls) -> Usage:
        """Of this process, up to now."""
        try:
            import resource
        except ImportError:  # Windows does not tell
            return cls(time.process_time(), 0, 0)
        used: Any = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime + used.ru_stime, used.ru_nvcsw, used.ru_nivcsw)
