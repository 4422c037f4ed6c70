"""The drawing vocabulary: well-formed whatever the text, scales with round numbers, and one name a color."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from overlapped.report.svg import COLORS, Picture, Scale, number, steps, text_width

HOSTILE = "<script>alert('1')</script> & \"q\" \x1b[31m \u202e \x00 ]]> 漢字"


def drawn() -> Picture:
    picture = Picture(300, 200, HOSTILE, HOSTILE)
    x, y = Scale(0, 10, 40, 290), Scale(0, 100, 150, 20)
    picture.panel(x, y, HOSTILE, x_unit=" s")
    picture.line(steps([(x(0), y(10)), (x(5), y(50))]), "wait", title=HOSTILE)
    picture.area([(x(0), y(10)), (x(5), y(50))], y(0), "wait")
    picture.bars([(10, 20, 30), (10, 30, 0)], 4, "wait")
    picture.cut_bar(10, 20, 100, 8, "fail")
    picture.dot(1, 1, "probe", title=HOSTILE)
    picture.text(1, 1, HOSTILE, anchor="end", mono=True)
    picture.legend(1, 1, [("wait", HOSTILE)], mark="line")
    return picture


@pytest.mark.parametrize("as_part", [False, True])
def test_a_picture_is_well_formed_and_hostile_text_stays_text(as_part: bool) -> None:
    text = drawn().inline() if as_part else str(drawn())
    root = ET.fromstring(text)  # noqa: S314 - our own
    kinds = {element.tag.split("}")[-1] for element in root.iter()}
    assert "script" not in kinds
    assert not set("\x1b\x00\u202e") & set(text)
    assert "<script>alert" in (root.get("aria-label") or "")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_every_color_used_has_a_rule_for_light_and_dark() -> None:
    text = str(drawn())
    used = set(re.findall(r"o-([a-z]+)", text)) - {"sans", "mono"}
    assert used <= set(COLORS)
    for name in used:
        light, dark = COLORS[name]
        assert f".o-{name}{{fill:{light}}}" in text
        assert f".o-{name}{{fill:{dark}}}" in text


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize("color", sorted(set(COLORS) - {"paper", "panel", "grid", "queue"}))
def test_colors_can_be_told_from_their_paper(color: str, scheme: int) -> None:
    """WCAG 2.1: 4.5 for text, 3 for shapes."""
    for ground in ("paper", "panel"):
        pair = sorted((_luminance(COLORS[color][scheme]), _luminance(COLORS[ground][scheme])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= (4.5 if color in {"ink", "muted"} else 3)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (0, 97, 4, [0, 50]),
        (0, 0.03, 3, [0, 0.01, 0.02, 0.03]),
        (0, 0, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (990, 1_010, 4, [990, 995, 1000, 1005, 1010]),
    ],
)
def test_ticks_are_round_and_within_the_range(low: float, high: float, most: int, expected: list[float]) -> None:
    assert Scale(low, high, 0, 100).ticks(most) == pytest.approx(expected)


def test_a_scale_maps_its_ends_to_its_ends_and_numbers_are_short() -> None:
    scale = Scale(2, 4, 100, 50)
    assert (scale(2), scale(3), scale(4)) == (100, 75, 50)
    assert [number(v) for v in (0, 0.25, 12, 1500, 2e6, 2.5e6)] == ["0", "0.25", "12", "1,500", "2M", "2.5M"]
    assert text_width("漢字", 10) > text_width("ab", 10)


def test_steps_keep_each_value_until_the_next() -> None:
    assert steps([(0, 1), (5, 3), (9, 2)]) == [(0, 1), (5, 1), (5, 3), (9, 3), (9, 2)]
