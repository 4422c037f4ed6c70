"""The picture and the table of settings: what is drawn and said, also of a service that is not there."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree as ET

import pytest

from overlapped.compare import page
from overlapped.compare.curve import Curve, Curves, Spot
from overlapped.compare.curve_picture import picture
from tests.browser import look_at, needs_browser, overlaps

HOSTILE = "<script>alert(1)</script> \x1b[31m"
SETTINGS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)


def spot(setting, per_s, *more):
    return Spot(setting, [per_s, *more], 0.01, 2e-6, 2**25, per_s * 0.9)


def curve(name="SQLite", scale=1_000.0, found=1_500):
    spots = [spot(s, scale * s / (1 + s / 800), scale * s / (1 + s / 700)) for s in SETTINGS]
    bound = [scale * s for s in SETTINGS]
    return Curve(name, spots, spot(found, scale * 600) if found else None, bound_per_s=bound)


def made(*curves):
    notes = ["a note that is said to the reader " * 8, HOSTILE]
    return Curves(
        "pipeline", "How many rows in a batch?", "rows " + HOSTILE, "in a batch", "row", "service", curves, 2, notes
    )


FOUR = made(
    curve(),
    curve("PostgreSQL", 7e4, 10_000),
    curve("Redis", 0.02, 1),
    Curve("HTTP", reason="refused " + HOSTILE * 9),
    curve("disk", 3, None),
)


def words(drawn):
    root = ET.fromstring(str(drawn))  # noqa: S314 - our own
    assert not any(element.tag.endswith("script") for element in root.iter())
    return ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]


def test_every_service_has_its_panel_and_hostile_text_stays_text():
    told = words(picture(FOUR))
    for name in ("SQLite", "PostgreSQL", "Redis", "disk"):
        assert name in told
    assert any(word.startswith("HTTP  not run: refused <script>") for word in told)
    best = [word for word in told if word.startswith("best 5,000: ")]
    assert best[0] == "best 5,000: 651,845; overlapped found 1,500: 600,000"


def test_the_axis_of_settings_is_logarithmic_and_the_one_of_rates_starts_at_zero():
    root = ET.fromstring(str(picture(made(curve(found=None)))))  # noqa: S314 - our own
    line = next(e for e in root.iter() if e.tag.endswith("polyline") and "o-wait-s" in e.attrib["class"])
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    at = dict(zip(SETTINGS, points, strict=True))
    for first, second in ((1, 10), (10, 100), (100, 1_000), (500, 5_000)):
        assert at[second][0] - at[first][0] == pytest.approx((at[5_000][0] - at[1][0]) / math.log10(5_000), abs=0.2)
    heights = [at[1][1] - at[s][1] for s in (10, 1_000)]
    rates = [curve().spots[i].per_s - curve().spots[0].per_s for i in (3, 9)]
    assert heights[1] / heights[0] == pytest.approx(rates[1] / rates[0], rel=0.05)


@pytest.mark.parametrize("curves", [(), (Curve("x", [spot(1, 5.0)]),), (Curve("x", reason="no"),), (curve(),)])
def test_one_setting_one_service_or_none_is_drawn_and_told(curves):
    words(picture(made(*curves)))
    assert "<table>" in page.page(made(*curves))
    assert made(*curves).text().startswith("pipeline: rows")


def test_the_table_tells_each_setting_its_share_of_the_best_and_what_was_found():
    lines = made(curve()).text().splitlines()
    best = next(line for line in lines if line.startswith("SQLite") and " 5,000 " in line)
    assert "100%" in best
    found = next(line for line in lines if line.startswith("overlapped"))
    assert "1,500 found" in found
    assert "92%" in found
    assert "rates: median of 2 runs, each in a fresh process" in lines
    assert next(line for line in FOUR.text().splitlines() if "not run" in line).startswith(
        "HTTP  not run: refused <script>"
    )
    assert "\x1b" not in FOUR.text().replace(HOSTILE, "")


def test_data_holds_every_run_and_why_a_service_is_missing(tmp_path):
    page.save(FOUR, str(tmp_path / "x.json"))
    told = json.loads((tmp_path / "x.json").read_text())
    assert told == json.loads(json.dumps(FOUR.to_dict()))
    first, missing = told["curves"][0], told["curves"][3]
    assert [s["setting"] for s in first["spots"]] == list(SETTINGS)
    assert all(len(s["runs_per_s"]) == 2 for s in first["spots"])
    assert first["found_of_best"] == pytest.approx(first["found"]["per_s"] / first["best"]["per_s"])
    assert (missing["status"], missing["spots"], missing["found"]) == ("not run", [], None)
    assert missing["reason"].startswith("refused")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("wide", "zoom"), [(1600, 0.8), (640, 2)])
@pytest.mark.parametrize("shown", [FOUR, made(curve())], ids=["several", "one"])
def test_in_a_browser_nothing_overlaps_and_nothing_is_fetched(tmp_path, shown, wide, zoom):
    found, console = look_at(tmp_path, page.page(shown), f"--force-device-scale-factor={zoom}", wide=wide)
    assert (found["fetched"], console) == ([], "")
    assert found["wide"] <= found["window"]
    (svg,) = found["svgs"]
    assert overlaps(svg) == []
