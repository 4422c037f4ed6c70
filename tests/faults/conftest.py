"""The children of the selected tests are started in the background; each test waits for its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults import harness

if TYPE_CHECKING:
    from collections.abc import Iterator

harness.POOL_KEY = pytest.StashKey[harness.Pool]()


@pytest.fixture(autouse=True)
def nothing_left_over() -> None:
    """A child looks after itself; here, other tests' children may be running."""


@pytest.fixture(scope="session", autouse=True)
def _pool(request: pytest.FixtureRequest) -> Iterator[None]:
    pool = harness.Pool(request.session.items)
    request.config.stash[harness.POOL_KEY] = pool
    yield
    pool.close()
