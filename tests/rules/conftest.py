"""The rest of the matrix: both ways to iterate, every lane, every kind of source."""

from __future__ import annotations

import pytest

from tests.rules.kit import LANES, SOURCES, WAYS


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """`for`, or `async for`."""
    return str(request.param)


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    """Where calls run."""
    return str(request.param)


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    """What items come from."""
    return str(request.param)
