"""Serves the live page of one run with aiohttp: drawn once for all who look, only while somebody looks, read-only.

A browser that is slow misses frames; nothing is queued for it. What is drawn costs at most `MOST_SHARE` of a core,
since the flow has to do without it: the longer a frame took, the longer the next one waits.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from overlapped.errors import UsageError
from overlapped.report import live, page

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from overlapped.record import RunRecord

EVERY_S: Final = 0.5
"""Between two frames at least: what changes faster nobody can read."""

MOST_SHARE: Final = 0.02
"""Of a core, for drawing: the bar of the terminal's painter too (benchmarks/watching.py)."""

MOST_LISTENERS: Final = 64
"""Browsers that get frames at once: each holds a descriptor that the flow may need."""

STUCK_S: Final = 30.0
"""A browser that has not taken a frame for so long is let go; it comes back by itself."""

LAST_WORDS_S: Final = 1.0
"""How long the end of a run waits for browsers to take the last frame, and for those that have just got the page."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "overlapped",
    "X-Content-Type-Options": "nosniff",
}


def need_aiohttp(name: str) -> None:
    """Load what serves, before anything runs: it takes 0.2 s, which a run should not have to share.

    Raises:
        UsageError: aiohttp is missing.
    """
    try:
        importlib.import_module("aiohttp.web")
    except ImportError as error:
        raise UsageError(f"{name} needs aiohttp; write pip install 'overlapped[standard]'") from error


class LiveServer:
    """The server of one run, on the loop that made it.

    Args:
        drawing: what the page says.
        snapshot: the run's account so far; called on this loop's thread.
        port: where it is served: part of what a Host header must say.
    """

    def __init__(self, drawing: live.Live, snapshot: Callable[[], RunRecord], port: int) -> None:
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())
        self._drawing = drawing
        self._snapshot = snapshot
        self._frame: dict[str, str] = {}
        self._event = b""  # the latest frame, as all listeners get it
        self._number = 0  # of that frame
        self._due_s = 0.0  # when the next one may be drawn
        self._report = ""
        self._report_due_s = 0.0
        self._news = asyncio.Event()  # set once the next frame is there, then another one takes its place
        self._listeners = 0
        self._wanted = asyncio.Event()  # somebody listens
        self._left = asyncio.Event()  # nobody listens
        self._expected = 0  # who got the page and does not listen yet
        self._expected_until_s = 0.0  # and will have begun by then, or never
        self._is_last = False

    async def serve(self, sock: socket.socket, end: asyncio.Event) -> None:
        """Serve until `end` is set, then give the last frame to those who listen."""
        from aiohttp import web

        @web.middleware
        async def guard(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._refuse_strangers(request)
            return await handler(request)

        app = web.Application(middlewares=[guard])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/events", self._events)
        app.router.add_get("/report", self._whole_report)
        runner = web.AppRunner(
            app, access_log=None, logger=_quiet(), handle_signals=False, shutdown_timeout=0.1, keepalive_timeout=15.0
        )
        await runner.setup()
        drawing = asyncio.create_task(self._draw_on(), name="overlapped:draw")
        try:
            await web.SockSite(runner, sock).start()
            await end.wait()
            drawing.cancel()
            await self._last_words()
        finally:
            drawing.cancel()
            await runner.cleanup()
            await asyncio.wait([drawing])

    # -- drawing -----------------------------------------------------------------------------------------

    async def _draw_on(self) -> None:
        while True:
            if not self._listeners:
                self._wanted.clear()
                await self._wanted.wait()
            self._draw()
            await asyncio.sleep(max(0.0, self._due_s - time.monotonic()))

    def _draw(self) -> None:
        """The next frame, if it is time for one."""
        if self._is_last or time.monotonic() < self._due_s:
            return
        began_s = time.thread_time()
        self._publish(self._made(self._drawing.frame))
        self._due_s = time.monotonic() + max(EVERY_S, (time.thread_time() - began_s) / MOST_SHARE)

    def _made(self, draw: Callable[[RunRecord], dict[str, str]]) -> dict[str, str]:
        try:
            return draw(self._snapshot())
        except Exception as error:  # noqa: BLE001 - a fault in a picture must not end the page, nor the run
            return live.broken(error)

    def _publish(self, frame: dict[str, str]) -> None:
        self._frame = frame
        self._event = live.event(frame)
        self._number += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _last_words(self) -> None:
        """The last frame for those who listen, and those who are about to: a page that has just been loaded."""
        last_s = time.monotonic() + LAST_WORDS_S
        if not self._listeners and not self._expected_s():
            return
        frame = {"end": "the run has ended", **self._made(self._drawing.end)}
        self._is_last = True
        self._report = frame.get("report", self._report)
        self._report_due_s = float("inf")
        self._publish(frame)
        while (left_s := last_s - time.monotonic()) > 0:
            wait_s = left_s if self._listeners else min(left_s, self._expected_s())
            if wait_s <= 0:
                return
            self._left.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._left.wait()
            except TimeoutError:
                pass  # somebody may have come meanwhile

    def _expected_s(self) -> float:
        """How long to wait for those who have just got the page and do not listen yet, s."""
        return max(0.0, self._expected_until_s - time.monotonic()) if self._expected else 0.0

    # -- answers -----------------------------------------------------------------------------------------

    def _refuse_strangers(self, request: web.Request) -> None:
        """Refuse what a page of another site could send: a name that was made to point here, another origin."""
        from aiohttp import web

        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        hosts = [host.lower() for host in request.headers.getall("Host", [])]
        origin = request.headers.get("Origin", "").lower()
        if len(hosts) != 1 or hosts[0] not in self._hosts or origin not in ("", f"http://{hosts[0]}"):
            raise web.HTTPForbidden(text="This page is for browsers on this machine, by the address that was printed.")

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        self._draw()
        self._expected += 1
        self._expected_until_s = time.monotonic() + LAST_WORDS_S
        return web.Response(text=self._drawing.whole(self._frame), content_type="text/html")

    async def _whole_report(self, _request: web.Request) -> web.StreamResponse:
        """The report so far."""
        from aiohttp import web

        if time.monotonic() >= self._report_due_s:
            began_s = time.thread_time()
            try:
                self._report = page.page(self._snapshot())
            except Exception as error:
                raise web.HTTPInternalServerError(text=live.broken(error)["body"], content_type="text/html") from error
            self._report_due_s = time.monotonic() + max(EVERY_S, (time.thread_time() - began_s) / MOST_SHARE)
        return web.Response(text=self._report, content_type="text/html")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        kind = {"Content-Type": "text/event-stream; charset=utf-8"}
        if request.method == "HEAD":
            return web.Response(headers=kind)
        if self._listeners >= MOST_LISTENERS:
            raise web.HTTPServiceUnavailable(text=f"{MOST_LISTENERS} browsers look at this page already.")
        self._listeners += 1
        self._expected = max(0, self._expected - 1)
        try:
            self._draw()  # the latest frame may be old: nobody may have looked for an hour
            self._wanted.set()
            response = web.StreamResponse(headers=kind)
            await response.prepare(request)
            await self._tell(response)
            return response
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()  # what it has not taken must not be waited for
            raise
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._left.set()

    async def _tell(self, response: web.StreamResponse) -> None:
        """Frame after frame, each time the latest: what a slow browser could not take in time it misses."""
        await response.write(b"retry: 1000\n\n")
        told = 0
        while True:
            news = self._news
            if told == self._number:
                await news.wait()
            told, is_last = self._number, self._is_last
            async with asyncio.timeout(STUCK_S):
                await response.write(self._event)
            if is_last:
                return


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers["Content-Security-Policy"] = live.policy()


def _quiet() -> Any:
    """A logger that says nothing: what a stranger sends is no news for whoever runs a flow."""
    logger = logging.Logger("overlapped.dashboard")  # noqa: LOG001 - not in the tree of loggers, which is the user's
    logger.addHandler(logging.NullHandler())
    return logger
