"""How a contract says that something falls short of it."""

from __future__ import annotations


def demand(holds: object, says: str) -> None:
    """As `assert`, which python -O leaves out."""
    if not holds:
        raise AssertionError(says)
