"""What the live page of a run says: the blocks of its report, drawn anew from snapshots, and how far it is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from functools import cache
from typing import TYPE_CHECKING, Final

from overlapped.report import page
from overlapped.report.plain import plain_error
from overlapped.report.speed import SURE_S, Speed, clock, taken
from overlapped.report.text import counted

if TYPE_CHECKING:
    from overlapped.record import RunRecord

MOST_CALLS: Final = 1_000
"""Calls in the pictures while a run goes on: a quarter of a report's, as they are drawn again and again."""

ENDS: Final = {
    "done": "the run has ended",
    "stopped": "the run has ended early",
    "failed": "the run has failed",
    "cancelled": "the run was cancelled",
}
LIVE_STYLE: Final = """
.o-live{position:sticky;top:0;z-index:1;border-bottom:1px solid #dfe3e8;background:#f5f6f8;
font:14px/1.4 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Noto Sans",sans-serif;
font-variant-numeric:tabular-nums}
.o-live .o-row{margin:0 auto;padding:.45rem 1.5rem;max-width:60rem;display:flex;flex-wrap:wrap;gap:.3rem 1rem;
align-items:center}
.o-live .o-fill{flex:1 1 0;min-width:14rem;display:flex;flex-wrap:wrap;gap:.3rem 1rem;align-items:center}
.o-live progress{width:9rem;height:.6rem;accent-color:#2a7ab9}
.o-live #o-link::before{content:"";display:inline-block;width:.6rem;height:.6rem;margin-right:.4rem;border-radius:50%;
background:#7c838d}
.o-live #o-link[data-is=live]::before{background:#1d8a5f}
.o-live #o-link[data-is=lost]::before{background:#c0392b}
.o-live a{color:#2065a0}
.o-live button{font:inherit;color:inherit;background:none;border:1px solid #7c838d;border-radius:4px;padding:0 .6rem;
min-width:4.5rem;cursor:pointer}
@media (prefers-color-scheme:dark){.o-live{background:#1d2229;border-color:#333a44}.o-live a{color:#58a6e6}
.o-live progress{accent-color:#58a6e6}}
"""


class Live:
    """Draws one run, snapshot by snapshot.

    Args:
        name: what the report is called when it is saved from the page.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._speed = Speed()

    def frame(self, record: RunRecord) -> dict[str, str]:
        """What changes in the page: its title, how far the run is, and the blocks."""
        return {
            "title": page.headline(record),
            "bar": self._bar(record),
            "body": page.body(page.shrunk(record, MOST_CALLS), record),
        }

    def whole(self, frame: dict[str, str]) -> str:
        """The page with a frame in it: complete as it is, for those who run no scripts too."""
        import markupsafe

        title, bar, body = frame["title"], frame["bar"], frame["body"]
        return page.render(
            "live.html",
            title=title,
            sheet=markupsafe.Markup(sheet()),  # noqa: S704 - constants
            bar=markupsafe.Markup(bar),  # noqa: S704 - rendered with autoescape
            body=markupsafe.Markup(body),  # noqa: S704 - same
            script=markupsafe.Markup(script()),  # noqa: S704 - a file of ours
        )

    def end(self, record: RunRecord) -> dict[str, str]:
        """The last frame, with the report: the page keeps it when the server is gone."""
        return {**self.frame(record), "end": ENDS[record.state], "report": page.page(record), "name": self._name}

    def _bar(self, record: RunRecord) -> str:
        per_s, _ = self._speed.of(record)
        share = min(100, int(100 * taken(record) / record.source_items)) if record.source_items else None
        words = [] if share is None else [f"of {counted(record.source_items or 0, 'item')}"]
        if record.state == "running":
            left_s = self._speed.left_s(record) if record.elapsed_s >= SURE_S else None
            words += [f"{per_s or '0/s'} lately"]
            words += [] if left_s is None or left_s < 1 else [f"about {clock(left_s)} left"]
            words += [f"{counted(sum(stage.in_flight for stage in record.stages), 'call')} in flight"]
        words += [f"{record.failed:,} failed"] if record.failed else []
        return page.render("live_bar.html", share=share, words=words)


def broken(error: BaseException) -> dict[str, str]:
    """A frame that says why there is none: the run goes on, whatever becomes of its picture."""
    import markupsafe

    told = markupsafe.escape(f"This page could not be drawn: {plain_error(error)}")
    return {"title": "overlapped", "bar": "", "body": f'<p class="o-verdict">{told}</p>'}


def event(frame: dict[str, str]) -> bytes:
    """A frame as a server-sent event: JSON, so that it is one line."""
    kind = "event: end\n" if "end" in frame else ""
    return f"{kind}data: {json.dumps(frame, separators=(',', ':'))}\n\n".encode()


def sheet() -> str:
    """The style sheet of the page."""
    return page.sheet() + LIVE_STYLE


@cache
def script() -> str:
    """The page's one script."""
    with open(os.path.join(os.path.dirname(__file__), "templates", "live.js"), encoding="utf-8") as file:
        return file.read()


@cache
def policy() -> str:
    """The content security policy: this script, these styles, events from where the page comes from; nothing else.

    A report that is opened from the page is under this policy too, hence the second style sheet.
    """
    styles = f"{_hash(sheet())} {_hash(page.sheet())}"
    return (
        f"default-src 'none'; script-src {_hash(script())}; style-src {styles}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
