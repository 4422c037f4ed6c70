"""The server of all comparisons: a Tornado server in a process of its own, whose every answer comes late.

`python -m overlapped.compare.server` prints its port. `/page/7?delay=0.1` answers with page 7 after 100 ms;
`size=` says how many bytes, `status=` another status than 200. A POST to `/save?delay=0.1` answers with the number of
lines that it was sent.
"""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from overlapped.compare.apart import running, stdin_ended
from overlapped.compare.base import INSTALL, ComparisonError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tornado.httputil import HTTPServerRequest

PAGE_BYTES = 1_000
"""Size of a page: what fits into one packet on a network, so that bytes play no role."""
BACKLOG = 4_096
"""Connections that may wait to be accepted: the models open all of theirs at once."""


def page(number: int, size: int = PAGE_BYTES) -> bytes:
    """What the server answers for `/page/{number}`."""
    line = f"page {number}: every page is another one, so that an answer in the wrong place is found\n".encode()
    return (line * (size // len(line) + 1))[:size]


def urls(port: int, count: int, delay_s: float) -> list[str]:
    """The addresses of so many pages."""
    return [f"http://127.0.0.1:{port}/page/{number}?delay={delay_s:g}" for number in range(count)]


@contextmanager
def running_server() -> Iterator[int]:
    """The server, gone at the end of the scope; gives its port.

    Raises:
        ComparisonError: tornado is missing, or it did not start.
    """
    if importlib.util.find_spec("tornado") is None:
        raise ComparisonError(f"the server of the comparison needs tornado: {INSTALL}", is_usage=True)
    with running("overlapped.compare.server", what="the server of the comparison") as port:
        yield port


def answer(request: HTTPServerRequest) -> tuple[float, int, bytes]:
    """Delay, status and body for a request."""
    parts = urlsplit(request.uri or "")
    given = {name: values[0] for name, values in parse_qs(parts.query).items()}
    kind, _, number = parts.path.strip("/").partition("/")
    delay_s = float(given.get("delay", 0))
    if request.method == "POST" and kind == "save":
        return delay_s, 200, str(request.body.count(b"\n")).encode()
    if request.method == "GET" and kind == "page" and number.isdigit():
        return delay_s, int(given.get("status", 200)), page(int(number), int(given.get("size", PAGE_BYTES)))
    return 0.0, 404, b"no such page\n"


async def serve() -> None:
    """Serve until stdin ends. Below handlers and routes: this server must carry every model at its best."""
    from tornado.httpserver import HTTPServer
    from tornado.httputil import HTTPHeaders, ResponseStartLine
    from tornado.netutil import bind_sockets

    loop = asyncio.get_running_loop()

    def handle(request: HTTPServerRequest) -> None:
        try:
            delay_s, status, body = answer(request)
        except ValueError as error:
            delay_s, status, body = 0.0, 400, f"{error}\n".encode()
        loop.call_later(delay_s, finish, request, status, body)

    def finish(request: HTTPServerRequest, status: int, body: bytes) -> None:
        connection = request.connection
        assert connection is not None
        head = HTTPHeaders({"Content-Length": str(len(body)), "Content-Type": "text/plain"})
        # its future fails if the client has gone meanwhile; that is its right
        future = connection.write_headers(ResponseStartLine("HTTP/1.1", status, ""), head, body)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        connection.finish()

    sockets = bind_sockets(0, "127.0.0.1", backlog=BACKLOG)
    server = HTTPServer(handle)
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await stdin_ended()
    server.stop()


def _main() -> None:
    from overlapped._engine.loop import new_loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    _main()
