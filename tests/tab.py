"""A tab of a real browser that stays open: asked and watched by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.browser import CHROMIUM, OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIMIT_S = 30.0


class Tab:
    """One page. `events` is everything the browser has told about it."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._asked = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []

    async def listen(self) -> None:
        """Take what the browser says, until it is gone."""
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                self._answers.pop(data["id"]).set_result(data)
            else:
                self.events.append(data)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._asked += 1
        answer = self._answers[self._asked] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps({"id": self._asked, "method": method, "params": params}))
        data = await asyncio.wait_for(answer, LIMIT_S)
        assert "error" not in data, data
        result: dict[str, Any] = data["result"]
        return result

    async def js(self, expression: str) -> Any:
        """What an expression gives in the page."""
        found = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str, limit_s: float = LIMIT_S) -> None:
        """Wait until an expression is true in the page."""
        async with asyncio.timeout(limit_s):
            while not await self.js(f"Boolean({expression})"):
                await asyncio.sleep(0.05)

    async def click(self, css: str) -> None:
        """Click an element as a person does."""
        await self.ask("Page.bringToFront")
        x, y = await self.js(
            f"(() => {{ const r = document.querySelector({json.dumps(css)}).getBoundingClientRect();"
            " return [(r.left + r.right) / 2, (r.top + r.bottom) / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def shot(self, path: Path, *, high: float | None = None) -> None:
        """The page as a picture: all of it, or its upper part."""
        await self.ask("Page.bringToFront")  # a page that is not in front is not painted
        wide, whole = await self.js("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": wide, "height": high or whole, "scale": 1}
        taken = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[Any]:
        """What the browser had to say against the page."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event["method"] in kinds]

    def requests(self) -> set[str]:
        """What the page has fetched."""
        return {e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"}


class Browser:
    """A headless Chromium with a profile of its own."""

    def __init__(self, session: Any, address: str) -> None:
        self._session = session
        self._address = address

    async def tabs(self) -> list[dict[str, Any]]:
        """All open pages."""
        async with self._session.get(f"{self._address}/json/list") as answer:
            found: list[dict[str, Any]] = await answer.json(content_type=None)
        return [each for each in found if each["type"] == "page"]

    @asynccontextmanager
    async def tab(self, url: str, *, dark: bool = False, wide: int = 1000) -> AsyncIterator[Tab]:
        """A new tab that shows `url`."""
        async with self._session.put(f"{self._address}/json/new?about:blank") as answer:
            made = await answer.json(content_type=None)
        async with self.attached(made) as tab:
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await tab.ask("Emulation.setEmulatedMedia", features=[scheme])
            size = {"width": wide, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            await tab.ask("Emulation.setDeviceMetricsOverride", **size)
            await tab.ask("Page.navigate", url=url)
            await tab.until("document.readyState === 'complete' && location.href !== 'about:blank'")
            yield tab
        async with self._session.get(f"{self._address}/json/close/{made['id']}") as answer:
            await answer.read()

    @asynccontextmanager
    async def attached(self, page: dict[str, Any]) -> AsyncIterator[Tab]:
        """A page that is open."""
        async with self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.ask(f"{domain}.enable")
            try:
                yield tab
            finally:
                listening.cancel()
                await asyncio.wait([listening])


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser, gone at the end of the scope."""
    import aiohttp

    assert CHROMIUM is not None
    profile = tempfile.mkdtemp()
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    telling = None
    try:
        port = ""
        async with asyncio.timeout(LIMIT_S):
            while not port:
                line = (await process.stderr.readline()).decode(errors="replace")
                assert line, "the browser did not start"
                port = "".join(re.findall(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line))
        telling = asyncio.create_task(process.stderr.read())  # or its pipe would be full some day
        async with aiohttp.ClientSession() as session:
            yield Browser(session, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()
        if telling is not None:
            await telling
        shutil.rmtree(profile, ignore_errors=True)
