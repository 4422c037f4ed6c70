"""What every stage is: a frozen description that can be attached to a run, again and again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from overlapped.errors import UsageError

if TYPE_CHECKING:
    from overlapped._engine.feed import Feed
    from overlapped._engine.scope import Scope


class Seat(NamedTuple):
    """Where in its flow a stage stands.

    Attributes:
        is_fatal: a failure that leaves this stage ends the run: raise mode, and no later `.catch`.
        weighs: its items are batches.
        resources: names given by `.using`.
        per_worker: those of them that every thread opens for itself.
    """

    is_fatal: bool
    weighs: bool
    resources: frozenset[str]
    per_worker: frozenset[str]


@runtime_checkable
class Stage(Protocol):
    """One step of a flow. Give your own to `.through(stage)`; check it with `overlapped.testing.check_stage`.

    A stage is immutable: `attach` makes the parts of one run. The `Feed` it returns pulls from `up` and
    follows the contract of `overlapped.Feed` (docs/own-parts.md).
    """

    @property
    def name(self) -> str:
        """Short name for reports and errors."""
        ...

    @property
    def verb(self) -> str:
        """The method that wrote it: "map", "batch", ..."""
        ...

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """The working part of this stage in one run."""
        ...

    def explain(self) -> str:
        """Its options and what follows from them, in one line."""
        ...


def require_int(verb: str, name: str, value: object, least: int) -> int:
    """`value` if it is an int >= `least`.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{verb}({name}): {name} must be an int >= {least}, got {value!r}")
    if value < least:
        raise UsageError(f"{verb}({name}): {name} must be >= {least}, got {value}")
    return value


def require_seconds(verb: str, name: str, value: object) -> float:
    """`value` if it is a finite number of seconds > 0.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise UsageError(f"{verb}({name}): {name} must be a number of seconds > 0, got {value!r}")
    if value > sys.float_info.max:
        raise UsageError(
            f"{verb}({name}): {name} must be seconds that a float can hold, got an int of {int(value).bit_length()} "
            f"bits; for no limit, leave it out"
        )
    return float(value)
