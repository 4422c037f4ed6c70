"""The picture of a comparison: what is drawn, and how it looks in a real browser at two zooms."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from overlapped.compare import page
from overlapped.compare.base import ComparisonError
from overlapped.compare.catalog import all_models
from overlapped.compare.comparison import Comparison, Several
from overlapped.compare.picture import _longest, picture
from overlapped.compare.runner import Once, Row
from tests.browser import look_at, needs_browser, overlaps
from tests.test_cli import overlapped

HOSTILE = "<script>alert(1)</script> \x1b[31m"


def once(seconds, count, at_once, *, found=None, vain=0):
    each = seconds / math.ceil(count / at_once)
    began = [number // at_once * each for number in range(count)]
    return Once(seconds, seconds / 9, 40, 9, vain, found, 2**25, ["x"] * count, began, [at + each for at in began])


def made(*, bound_s=0.4):
    """Every model: the first one slow and on a part, the last one ours, one that could not run."""
    rows = []
    for place, model in enumerate(all_models()):
        if model.name == "blocking":
            rows.append(Row(model, 20, 13, [once(2.02, 20, 1)]))
        elif model.name == "completion":
            rows.append(Row(model, 400, 60, [], "not run", HOSTILE * 9))
        else:
            found = 240 if model.name == "overlapped" else None
            vain = 480_000 if model.name == "polling" else 0
            runs = [once(0.43 + place / 50 + extra, 400, 100, found=found, vain=vain) for extra in (0.0, 0.03, 0.9)]
            rows.append(Row(model, 400, 20, runs))
    notes = ["a note that is said to the reader " * 8, HOSTILE]
    return Comparison("crawl", "400 requests " + HOSTILE, "request", 400, 100, 0.1, bound_s, rows, notes)


def test_every_model_has_its_row_and_hostile_text_stays_text():
    text = str(picture(made()))
    root = ET.fromstring(text)  # noqa: S314 - our own
    words = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    for model in all_models():
        assert model.name in words
    assert not any(element.tag.endswith("script") for element in root.iter())
    assert any(word.startswith("not run: <script>") for word in words)
    assert "about 40.4 s" in words
    assert "bound 400 ms" in words
    assert "found" in words
    assert "1,200 vain asks each" in words
    assert words.index("polling") < words.index("overlapped") < words.index("blocking") < words.index("completion")


def test_the_axis_is_linear_and_fits_all_but_the_slowest():
    longest = _longest(made())
    assert 0.65 < longest < 0.9  # neither blocking's 40 s nor a single run of 1.3 s
    rows = re.findall(r'<rect x="176" y="[\d.]+" width="([\d.]+)" height="16"', str(picture(made())))
    medians = sorted(row.median_s for row in made().rows if len(row.runs) == 3)
    scale = (548 - 176) / longest
    assert [float(width) for width in rows] == pytest.approx([m * scale for m in medians] + [548 - 176], abs=0.06)


def test_a_picture_without_a_bound_or_with_one_row_or_none_is_drawn():
    assert "bound" not in "".join(ET.fromstring(str(picture(made(bound_s=math.nan)))).itertext())  # noqa: S314
    whole = made()
    for kept in ([whole.rows[0]], [whole.rows[3]], []):
        small = Comparison("crawl", "x", "request", 400, 100, 0.1, 0.4, kept)
        ET.fromstring(str(picture(small)))  # noqa: S314 - our own
        assert "<table>" in page.page(small)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x.png", "x.png: a comparison is written as .html, .svg, .json"),
        ("x", "a comparison is written as"),
        ("no/such/folder/x.svg", "there is no folder"),
        ("folder.svg", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(path, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.svg").mkdir()
    done = overlapped("compare", "-o", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_file_that_is_asked_for_is_written_also_when_one_cannot_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("full.svg").symlink_to("/dev/full")
    files = ("-o", "x.html", "-o", "full.svg", "-o", "x.json", "-o", "x.svg", "-o", "x.json")
    done = overlapped("compare", "--requests", "5", "--delay", "0", "--repeat", "1", "-m", "blocking", "-q", *files)
    assert done.returncode == 1
    assert done.stderr == "overlapped: full.svg: cannot be written: No space left on device\n"
    assert done.stdout.startswith("crawl: 5 requests")
    assert json.loads(Path("x.json").read_text())["models"][0]["name"] == "blocking"
    assert Path("x.html").read_text().startswith("<!doctype html>")
    ET.parse("x.svg")  # noqa: S314 - our own


def test_all_files_are_looked_at_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = overlapped("compare", "-o", "x.html", "-o", "no/x.svg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "-o 'no/x.svg': there is no folder" in done.stderr
    assert list(Path().iterdir()) == []


def test_without_jinja2_the_line_to_install_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ComparisonError, match="a page needs jinja2: pip install 'overlapped"):
        page.checked_path(str(tmp_path / "x.html"))
    assert page.checked_path(str(tmp_path / "x.svg"))


def test_each_kind_of_file_is_written(tmp_path):
    for kind in (".html", ".svg", ".json"):
        page.save(made(), str(tmp_path / f"x{kind}"))
    assert json.loads((tmp_path / "x.json").read_text()) == made().to_dict()
    ET.parse(tmp_path / "x.svg")  # noqa: S314 - our own
    text = (tmp_path / "x.html").read_text()
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "not run: &lt;script&gt;" in text
    assert not re.search(r"(src|href)\s*=|url\(|@import", text)


# In a real browser


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("wide", "zoom"), [(1600, 0.8), (640, 2)])
@pytest.mark.parametrize("shown", [made(), Several("files", [made(), made(bound_s=math.nan)])], ids=["one", "several"])
def test_in_a_browser_nothing_overlaps_and_nothing_is_fetched(tmp_path, shown, wide, zoom):
    found, console = look_at(tmp_path, page.page(shown), f"--force-device-scale-factor={zoom}", wide=wide)
    assert (found["fetched"], console) == ([], "")
    assert found["wide"] <= found["window"]
    assert len(found["svgs"]) == len(shown.sections())
    for svg in found["svgs"]:
        assert {text[0] for text in svg["texts"]} >= {model.name for model in all_models()}
        assert overlaps(svg) == []


@needs_browser
@pytest.mark.slow
def test_in_a_browser_the_page_follows_the_readers_scheme(tmp_path):
    assert look_at(tmp_path, page.page(made()))[0]["paper"] == "rgb(255, 255, 255)"
    dark, _ = look_at(tmp_path, page.page(made()), "--blink-settings=preferredColorScheme=0")
    assert dark["paper"] == "rgb(20, 23, 28)"
