"""What `AUTO` promises: a value written where a number would go."""

from __future__ import annotations

import math

import pytest

from overlapped.control.auto import AUTO, Auto
from overlapped.control.base import Controller, ControllerSpec
from overlapped.errors import UsageError


def test_auto_makes_a_new_controller_for_every_run():
    assert isinstance(AUTO, ControllerSpec)
    first, second = AUTO.controller(), AUTO.controller()
    assert isinstance(first, Controller)
    assert first is not second
    assert (first.limit, first.reason) == (8, "start")


def test_auto_can_be_bounded():
    assert AUTO(max=32, start=4) == Auto(4, 32)
    assert AUTO() == AUTO
    assert AUTO(max=32)(start=2) == Auto(2, 32)
    assert AUTO(max=3).controller().limit == 3
    assert AUTO(start=20).controller().limit == 20


def test_auto_is_shown_as_it_is_written():
    assert repr(AUTO) == "AUTO"
    assert repr(AUTO(max=32)) == "AUTO(max=32)"
    assert repr(AUTO(max=3)) == "AUTO(max=3)"
    assert repr(AUTO(start=4, max=32)) == "AUTO(start=4, max=32)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max": 0}, r"^AUTO\(max\): max must be >= 1, got 0$"),
        ({"max": -math.inf}, "max must be an int, got -inf"),
        ({"max": math.nan}, "max must be an int, got nan"),
        ({"max": 2.5}, "max must be an int, got 2.5"),
        ({"max": "8"}, "max must be an int, got '8'"),
        ({"start": True}, "start must be an int, got True"),
        ({"start": 0}, r"^AUTO\(start\): start must be >= 1, got 0$"),
        ({"start": math.inf}, "start must be an int, got inf"),
        ({"start": 9, "max": 4}, r"^AUTO\(start\): start must be <= max \(4\), got 9$"),
    ],
)
def test_bounds_that_cannot_work_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        AUTO(**options)
