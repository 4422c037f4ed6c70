"""The chapter on the I/O models, in both languages, tells of every model what the model tells of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overlapped.compare.catalog import all_models
from tests.browser import look_at, needs_browser, overlaps

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = [DOCS / "io-models.md", DOCS / "ko" / "io-models.md"]


def sections(page):
    """The text below each heading."""
    parts = re.split(r"^## (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("page", PAGES, ids=["English", "Korean"])
def test_every_model_has_its_section_with_its_cell_and_its_own_code(page):
    told = sections(page)
    for model in all_models():
        section = told[model.name]
        cells = next(line for line in section.splitlines() if line.startswith("| ") and model.about.cell in line)
        assert f"/{model.module.__name__.rpartition('.')[2]}.py)" in cells
        included = re.findall(r"literalinclude\} (\S+)\n:pyobject: (\S+)", section)
        assert included
        for path, name in included:
            source = (page.parent / path).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(def|class) {name.rpartition('.')[2]}\b", source, re.MULTILINE), (path, name)
        assert any(Path(path).name == f"{model.module.__name__.rpartition('.')[2]}.py" for path, _ in included)


def test_the_english_page_repeats_what_the_models_say_and_both_show_the_same_figures():
    english = sections(PAGES[0])
    for model in all_models():
        cells = next(line for line in english[model.name].splitlines() if model.about.cell in line)
        assert f"| {model.about.control} | {model.about.notice} |" in cells
    numbers = [re.findall(r"\d[\d.,]*", "".join(table(page))) for page in PAGES]
    assert numbers[0] == numbers[1]


def table(page):
    return [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| [")]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("wide", "zoom"), [(1600, 0.8), (640, 2)])
@pytest.mark.parametrize("name", ["io-models", "hash-and-save", "sweep", "pipelining"])
def test_in_a_browser_nothing_overlaps_in_the_pictures_of_the_documentation(tmp_path, name, wide, zoom):
    drawn = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    shown = (
        f"<!doctype html><style>body{{margin:0}}svg{{display:block;width:100%;height:auto}}</style><body>{drawn}</body>"
    )
    found, _ = look_at(tmp_path, shown, f"--force-device-scale-factor={zoom}", wide=wide)
    (svg,) = found["svgs"]
    assert len(svg["texts"]) > 20
    assert overlaps(svg) == []
