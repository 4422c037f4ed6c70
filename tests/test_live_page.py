"""The live page in a real browser: drawn, going on, harmless, and still there when the run has ended."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from overlapped import flow
from overlapped.report import files
from overlapped.report.dashboard import Dashboard
from tests.browser import needs_browser, overlaps
from tests.tab import Browser, Tab, browser
from tests.test_page import BAD
from tests.test_report import make_record, make_stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from overlapped import Report
    from overlapped.record import RunRecord

pytestmark = [pytest.mark.slow, needs_browser]

SVGS = """(() => {
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
return [...document.querySelectorAll("svg")].map(svg => ({
  label: svg.getAttribute("aria-label"), box: box(svg),
  shapes: svg.querySelectorAll("path, rect, polyline, polygon, circle").length,
  texts: [...svg.querySelectorAll("text")].map(e => [e.textContent, ...box(e)]),
}));
})()"""
LINK = "document.getElementById('o-link').textContent"
BAR = "document.getElementById('o-bar').innerText"


class Running:
    """A flow that goes on until it is let go, with a page."""

    def __init__(self, task: asyncio.Task[Report], address: str, let_go: asyncio.Event) -> None:
        self.task = task
        self.address = address
        self._let_go = let_go

    async def end(self) -> Report:
        self._let_go.set()
        return await self.task


@asynccontextmanager
async def running(capsys: pytest.CaptureFixture[str], **options: Any) -> AsyncIterator[Running]:
    let_go = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        number = 0
        while not let_go.is_set():
            yield number
            number += 1

    async def work(item: int) -> int:
        await asyncio.sleep(0.02)
        if item % 50 == 7:
            raise ValueError(BAD)
        return item

    chain = flow(numbers).map(work, name=BAD, concurrency=4).map(work, name="two", concurrency=2)
    task = asyncio.create_task(chain.arun(**{"on_failure": "keep", "dashboard": True, **options}))
    address = ""
    async with asyncio.timeout(20):
        while not address:
            await asyncio.sleep(0.01)
            address = "".join(re.findall(r"http://127.0.0.1:\d+/", capsys.readouterr().err))
    try:
        yield Running(task, address, let_go)
    finally:
        let_go.set()
        await task


async def open_report(in_: Browser, tab: Tab) -> str:
    """Click the link and read the tab that it opens."""
    before = {page["id"] for page in await in_.tabs()}
    await tab.click("#o-open")
    async with asyncio.timeout(10):
        while not (found := [page for page in await in_.tabs() if page["id"] not in before]):
            await asyncio.sleep(0.05)
    async with in_.attached(found[0]) as opened:
        await opened.until("document.readyState === 'complete' && document.querySelector('h1')")
        assert (
            await opened.js("getComputedStyle(document.querySelector('.o-report')).maxWidth") == "960px"
        )  # it has its style
        assert opened.complaints() == []
        return str(await opened.js("document.documentElement.outerHTML"))


@pytest.mark.parametrize("dark", [False, True])
def test_shapes_are_drawn_the_page_goes_on_with_the_run_and_nothing_else_is_fetched(capsys, dark):
    async def main() -> None:
        async with running(capsys) as run, browser() as chromium, chromium.tab(run.address, dark=dark) as tab:
            await tab.until(f"{LINK} === 'live'")
            await tab.until("document.querySelector('.o-verdict')")  # two seconds of evidence
            first = await tab.js(
                "[document.title, document.getElementById('o-bar').innerText, document.body.innerHTML]"
            )
            await tab.until(f"document.title !== {first[0]!r}")
            then = await tab.js("[document.title, document.getElementById('o-bar').innerText, document.body.innerHTML]")
            assert all(a != b for a, b in zip(first, then, strict=True))
            svgs = await tab.js(SVGS)
            labels = [svg["label"] for svg in svgs]
            assert labels[0].startswith("Chronology")
            assert any("limit, calls in flight" in label for label in labels)
            assert any("service times" in label for label in labels)
            for svg in svgs:
                assert svg["shapes"] > 3
                assert overlaps(svg) == []
            assert await tab.js("getComputedStyle(document.body).backgroundColor") == (
                "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
            )
            assert await tab.js("document.documentElement.scrollWidth <= innerWidth")
            await run.end()
            await tab.until(f"{LINK} === 'the run has ended'")
            assert tab.complaints() == []
            assert tab.requests() == {run.address, f"{run.address}events"}

    asyncio.run(main())


def test_hostile_names_and_errors_are_text(capsys):
    async def main() -> None:
        async with running(capsys) as run, browser() as chromium, chromium.tab(run.address) as tab:
            await tab.until("document.body.innerText.includes('ValueError')")
            text = await tab.js("document.body.innerText")
            assert "<script>alert(1)</script>\\x1b[31m\\u202e" in text
            assert await tab.js("document.scripts.length") == 1
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert tab.complaints() == []

    asyncio.run(main())


def test_when_the_run_has_ended_the_page_says_so_and_opens_the_report_though_the_server_is_gone(capsys, tmp_path):
    async def main() -> None:
        path = tmp_path / "run.html"
        async with running(capsys, report=path) as run, browser() as chromium, chromium.tab(run.address) as tab:
            await tab.until(f"{LINK} === 'live'")
            assert await tab.js("document.getElementById('o-open').href") == f"{run.address}report"
            report = await run.end()
            await tab.until(f"{LINK} === 'the run has ended'")
            assert f"{report.failed:,} failed" in await tab.js(BAR)
            assert await tab.js("document.getElementById('o-save').download") == "run.html"
            (tmp_path / "again.html").write_text(await open_report(chromium, tab))
            again = files.read(str(tmp_path / "again.html"))
            assert (again.items, again.failed) == (report.items, report.failed)
            assert tab.complaints() == []

    asyncio.run(main())


def test_a_page_can_be_paused_and_goes_on(capsys):
    async def main() -> None:
        async with running(capsys) as run, browser() as chromium, chromium.tab(run.address) as tab:
            await tab.until(f"{LINK} === 'live'")
            await tab.click("#o-pause")
            await tab.until(f"{LINK} === 'paused'")
            before = await tab.js("document.body.innerHTML")
            await asyncio.sleep(2)
            assert await tab.js("document.body.innerHTML") == before
            await tab.click("#o-pause")
            await tab.until(f"{LINK} === 'live' && document.body.innerHTML !== {before!r}")

    asyncio.run(main())


def test_what_somebody_selects_stays_until_they_have_done(capsys):
    async def main() -> None:
        async with running(capsys) as run, browser() as chromium, chromium.tab(run.address) as tab:
            await tab.until(f"{LINK} === 'live'")
            await tab.js("getSelection().selectAllChildren(document.querySelector('h1'))")
            before = await tab.js("document.querySelector('h1').innerText")
            await asyncio.sleep(1.5)
            assert await tab.js("getSelection().toString()") == before
            await tab.js("getSelection().removeAllRanges()")
            await tab.until(f"document.querySelector('h1').innerText !== {before!r}")

    asyncio.run(main())


def test_a_page_whose_server_has_gone_says_so_and_goes_on_with_the_next_run_at_that_port():
    def record(name: str) -> RunRecord:
        return make_record(state="running", stages=(make_stage(name=name),))

    async def main() -> None:
        async with browser() as chromium:
            with Dashboard(None, name="run(dashboard)", instead="dashboard=True") as first:
                first.show(lambda: record("first"))
                async with chromium.tab(first.address) as tab:
                    await tab.until(f"{LINK} === 'live'")
                    first.close()  # without a last word, as when a process is killed
                    await tab.until(f"{LINK}.startsWith('connection lost')")
                    assert "first" in await tab.js("document.body.innerText")
                    with Dashboard(first.port, name="run(dashboard)", instead="dashboard=True") as second:
                        second.show(lambda: record("second"))
                        await tab.until(f"{LINK} === 'live'")
                        await tab.until("document.body.innerText.includes('second')")

    asyncio.run(main())


def test_without_scripts_the_page_is_whole_and_loads_itself_again(capsys):
    async def main() -> None:
        async with running(capsys) as run, browser() as chromium, chromium.tab("about:blank#") as tab:
            await tab.ask("Emulation.setScriptExecutionDisabled", value=True)
            began_s = time.monotonic()
            await tab.ask("Page.navigate", url=run.address)
            async with asyncio.timeout(20):
                while sum(event["method"] == "Page.loadEventFired" for event in tab.events) < 3:
                    await asyncio.sleep(0.1)
            assert time.monotonic() - began_s > 4
            found = await tab.ask("DOM.getDocument", depth=0)
            html = (await tab.ask("DOM.getOuterHTML", nodeId=found["root"]["nodeId"]))["outerHTML"]
            assert "<svg" in html
            assert "running:" in html

    asyncio.run(main())


def test_several_browsers_look_at_once_and_a_narrow_one_is_readable(capsys):
    async def main() -> None:
        async with (
            running(capsys) as run,
            browser() as chromium,
            chromium.tab(run.address) as one,
            chromium.tab(run.address, wide=400) as two,
        ):
            for tab in (one, two):
                await tab.until(f"{LINK} === 'live'")
                await tab.until("document.querySelectorAll('svg').length > 3")
            assert await two.js("document.documentElement.scrollWidth <= innerWidth")
            await run.end()
            for tab in (one, two):
                await tab.until(f"{LINK} === 'the run has ended'")
                assert tab.complaints() == []

    asyncio.run(main())
