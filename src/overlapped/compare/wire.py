"""HTTP/1.1 without I/O: bytes go in, a page comes out; what models on bare sockets have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlapped.compare.base import BadAnswerError, checked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPConnection

    from overlapped.compare.base import Crawl

MOST_HEAD_BYTES = 65_536
"""Longest head taken: what is longer is not HTTP."""


class Answer:
    """One answer, collected from the pieces in which it arrives.

    Args:
        path: what was asked for, for errors.

    Attributes:
        keeps: True if the connection may be used again, once the answer is complete.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.keeps = True
        self._data = bytearray()
        self._status = 0
        self._length: int | None = None  # None: until the connection ends
        self._is_chunked = False
        self._body = b""
        self._is_done = False

    def feed(self, data: bytes | bytearray) -> bool:
        """Take what was received (b"": the connection has ended); True if the answer is complete.

        Raises:
            BadAnswerError: this is no HTTP, or it ended too early.
        """
        self._data += data
        while not self._status:
            if not self._read_head():
                if not data:
                    raise BadAnswerError(f"the server closed the connection before it answered {self.path}")
                return False
        if self._is_chunked:
            self._read_chunks()
        elif self._length is not None:
            if len(self._data) >= self._length:
                self._body, self._is_done = bytes(self._data[: self._length]), True
        elif not data:
            self._body, self._is_done = bytes(self._data), True
        if not data and not self._is_done:
            raise BadAnswerError(f"the server closed the connection in the middle of {self.path}")
        return self._is_done

    def body(self) -> bytes:
        """The page.

        Raises:
            BadAnswerError: the status is not 200.
        """
        return checked(self._status, self.path, self._body)

    def _read_head(self) -> bool:
        head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
        if not found:
            if len(head) > MOST_HEAD_BYTES:
                raise BadAnswerError(f"what answers for {self.path} speaks no HTTP")
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(maxsplit=2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise BadAnswerError(f"what answers for {self.path} speaks no HTTP/1.1")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if words[1].startswith("1"):  # 100 Continue, 103 Early Hints: the answer itself is still to come
            self._data = bytearray(rest)
            return True
        self._status = int(words[1])
        self._is_chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        if self._status in (204, 304):
            self._length = 0
        elif (length := fields.get("content-length", "")).isdigit():
            self._length = int(length)
        self.keeps = fields.get("connection", "").lower() != "close" and words[0] != "HTTP/1.0"
        self.keeps = self.keeps and (self._is_chunked or self._length is not None)
        self._data = bytearray(rest)
        return True

    def _read_chunks(self) -> None:
        """From the start each time: what the models fetch comes in one piece or two."""
        body, at = bytearray(), 0
        while (end := self._data.find(b"\r\n", at)) >= 0:
            try:
                size = int(self._data[at:end].partition(b";")[0], 16)
            except ValueError:
                raise BadAnswerError(f"{self.path} comes in chunks that are none") from None
            at = end + 2
            if size == 0:
                if self._data.find(b"\r\n", at) >= 0:
                    self._body, self._is_done = bytes(body), True
                return
            if len(self._data) < at + size + 2:
                return
            body += self._data[at : at + size]
            at += size + 2


class Visit:
    """Page after page over one non-blocking connection: each step is one system call, which returns at once.

    Args:
        work: the pages.
        numbers: those that nobody has taken yet, shared by all visits.

    Attributes:
        socket: the connection now; another one after a server has closed it.
        wants_to_send: whether the next step sends; else it receives.
    """

    def __init__(self, work: Crawl, numbers: Iterator[int]) -> None:
        self.socket = work.connect_soon()
        self.wants_to_send = True
        self._work = work
        self._numbers = numbers
        self._number = 0
        self._unsent = b""
        self._answer = Answer("")
        self._next()

    def step(self) -> bool:
        """Send or receive once; False if this was the last page.

        Raises:
            BlockingIOError: there is nothing to receive yet, or no connection: ask again later.
        """
        if self.wants_to_send:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
            self.wants_to_send = bool(self._unsent)
            return True
        if not self._answer.feed(self.socket.recv(65_536)):
            return True
        self._work.end(self._number, self._answer.body())
        if not self._answer.keeps:
            self.socket.close()
            self.socket = self._work.connect_soon()
        return self._next()

    def _next(self) -> bool:
        for number in self._numbers:
            self._work.begin(number)
            self._number = number
            self._unsent = self._work.request(number)
            self._answer = Answer(self._work.paths[number])
            self.wants_to_send = True
            return True
        self.socket.close()
        return False


def visits(work: Crawl) -> list[Visit]:
    """As many connections as there are to be requests in flight, with the first page of each."""
    numbers = iter(range(len(work)))
    return [Visit(work, numbers) for _ in range(min(work.concurrency, len(work)))]


def get(connection: HTTPConnection, path: str) -> bytes:
    """Fetch one page with the standard library's client, which blocks."""
    connection.request("GET", path, headers={"Accept-Encoding": "identity"})
    answer = connection.getresponse()
    return checked(answer.status, path, answer.read())
