"""What a real browser makes of a page of ours."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # tests talk to this machine only
)

PROBE = """<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const shapes = "path, rect, polyline, polygon, circle";
const found = {
  svgs: [...document.querySelectorAll("svg")].map(svg => ({
    label: svg.getAttribute("aria-label"), role: svg.getAttribute("role"), box: box(svg),
    shapes: svg.querySelectorAll(shapes).length,
    texts: [...svg.querySelectorAll("text")].map(e => [e.textContent, ...box(e)]),
  })),
  text: document.body.innerText,
  scripts: [...document.scripts].map(e => e.type),
  wide: document.documentElement.scrollWidth, window: innerWidth,
  fetched: performance.getEntriesByType("resource").map(e => e.name),
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
};
document.title = "found:" + JSON.stringify(found).replaceAll("<", "(");
</script>"""


def look_at(folder: Path, page: str, *more: str, wide: int = 1000) -> tuple[dict[str, Any], str]:
    """What the page looks like to scripts, and what the browser logged. Our probe needs leave to run."""
    assert CHROMIUM is not None
    file = folder / "page.html"
    allowed = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    file.write_text(allowed.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--window-size={wide},900"),
            *("--enable-logging=stderr", "--v=0", *more, "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    told = re.search(r"<title>found:(.*?)</title>", done.stdout, re.DOTALL)
    assert told, done.stderr[-2_000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(told[1])), console


SLACK = 1.0
"""px that boxes of two texts may share: a box includes the room above and below the letters."""
LINE_SHARE = 0.35
"""And the share of its height that a box may have in common with the line below it."""


def overlaps(svg: dict[str, Any]) -> list[tuple[str, ...]]:
    """Texts of a picture that lie on each other, in pairs, and those that stick out of it, alone."""
    left, top, right, bottom = svg["box"]
    texts = svg["texts"]
    return [
        *((a[0], b[0]) for place, a in enumerate(texts) for b in texts[place + 1 :] if _collide(a, b)),
        *((t[0],) for t in texts if t[1] < left - 1 or t[2] < top - 1 or t[3] > right + 1 or t[4] > bottom + 1),
    ]


def _collide(first: list[Any], second: list[Any]) -> bool:
    wide = min(first[3], second[3]) - max(first[1], second[1])
    high = min(first[4], second[4]) - max(first[2], second[2])
    return bool(wide > SLACK and high > LINE_SHARE * (first[4] - first[2]))
