"""What every sink has: its shape, named fields or JSON text for an item, and the words of a refusal.

A sink is a description the user writes; its writer is used by one thread of the run.

A writer commits batch by batch. Two more shapes tell how a journal can commit its marks together
with the rows, so that a run killed at any moment leaves both or neither:

- `Transactional` (a table): `with writer.transaction() as connection: writer.write(items);
  add_marks(connection)` - rows and marks in one transaction.
- `AppendOnly` (a file): `writer.write(items); length = writer.position()` - the rows are on disk,
  then the journal stores its marks with `length`, and a resumed run cuts the file to it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from overlapped._engine.failure import short
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

IfExists = Literal["fail", "append", "replace"]
"""What to do when the target already holds something."""


class Writer(Protocol):
    """An opened sink. All its calls come from the thread that called `Sink.open`, one at a time."""

    def write(self, items: Sequence[object]) -> dict[int, Exception]:
        """Write and commit one batch, all of it or (when it raises) nothing of it.

        Returns:
            The items that this sink cannot take, as {index in `items`: why}. The others are
            written. An empty dict is the usual answer.

        Raises:
            Exception: the sink itself failed (disk full, locked): the run ends.
        """
        ...

    def close(self, ok: bool) -> None:
        """Give everything back; called once. Batches that were written stay, `ok` or not.

        Args:
            ok: False if the run failed or was cancelled.
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """What a user gives to `.to(...)`: immutable, opened anew by every run."""

    def describe(self) -> str:
        """The sink in one short line, as the user would write it."""
        ...

    def open(self) -> Writer:
        """A new writer; called on the sink's own thread when the run starts.

        Raises:
            UsageError: the target already holds something and the user did not say what to do.
        """
        ...


@runtime_checkable
class Transactional(Protocol):
    """A writer whose rows and a journal's marks can be committed in one transaction."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Everything written inside is committed at its end, or rolled back if it raises.

        Gives the database connection. `write` inside it joins it.
        """
        ...


@runtime_checkable
class AppendOnly(Protocol):
    """A writer of a file that only grows."""

    def position(self) -> int:
        """The file's length in bytes, after making sure that so much of it is on disk."""
        ...


def check_path(owner: str, path: object) -> None:
    """Refuse what cannot be a path: `owner` is the sink's class name for the message."""
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{owner}(path): path must be str or os.PathLike, got {path!r}")
    if path in ("", ":memory:"):
        raise UsageError(f'{owner}(path): path must name a file, got {path!r}; write {owner}("out")')
    if "\0" in os.fsdecode(path):
        raise UsageError(f'{owner}(path): path must be without NUL characters, got {path!r}; write {owner}("out")')


def check_if_exists(owner: str, if_exists: object) -> None:
    """Refuse anything but the three words of `IfExists`."""
    if if_exists not in ("fail", "append", "replace"):
        raise UsageError(f'{owner}(if_exists): must be "fail", "append" or "replace", got {if_exists!r}')


def already_there(sink: str, what: str) -> UsageError:
    """The refusal to touch a target that holds something already."""
    return UsageError(f'{sink}: {what}; write if_exists="append" to add to it or if_exists="replace" to lose it')


def check_folder(sink: str, path: str | os.PathLike[str]) -> None:
    """Refuse a path whose folder does not exist."""
    folder = os.path.dirname(os.fspath(path)) or os.curdir
    if not os.path.isdir(folder):
        raise UsageError(f"{sink}: there is no folder {folder!r}; make it first")


def fields_of(item: object) -> Mapping[str, object] | None:
    """The named fields of a mapping, a dataclass or a NamedTuple; None for anything else."""
    if isinstance(item, dict):
        return item
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    if isinstance(item, tuple):
        names: tuple[str, ...] | None = getattr(item, "_fields", None)
        return None if names is None else dict(zip(names, item, strict=True))
    if isinstance(item, Mapping):
        return dict(item)
    return None


def _plain(value: object) -> Mapping[str, object]:
    """What the JSON encoder asks for when it meets a type of which it knows nothing."""
    fields = fields_of(value)
    if fields is None:
        raise no_form(value)
    return fields


@cache
def _encoder() -> Callable[[object], str]:
    """One encoder for all items: it holds no state between them, and making one costs more than using it."""
    from json import JSONEncoder

    return JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain).encode


def to_json(item: object) -> str:
    """One line of JSON. Dataclasses and mappings become objects, and so does a NamedTuple item.

    A NamedTuple *inside* an item is an array, as for the `json` module.

    Raises:
        Exception: the item has no JSON form; `refusal` makes a message of it.
    """
    fields = fields_of(item) if isinstance(item, tuple) else None
    return _encoder()(item if fields is None else fields)


def no_form(value: object) -> TypeError:
    """The error for a value of a type that cannot be written, with what to write instead."""
    kind = type(value).__name__
    if isinstance(value, bytes | bytearray | memoryview):
        hint = "make it text first: `.map(bytes.decode)`, or base64 if it is not text"
    elif isinstance(value, set | frozenset):
        hint = "make it a list first: `.map(sorted)`"
    elif hasattr(value, "isoformat"):
        hint = "make it text first with its `.isoformat()` in a `.map(...)`"
    elif hasattr(value, "model_dump"):
        hint = 'make it a dict first: `.map(lambda item: item.model_dump(mode="json"))`'
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        hint = "make it a dict first: `.map(vars)`, or make its class a dataclass"
    else:
        hint = "make it text, a number, a list or a dict first with a `.map(...)`"
    return TypeError(f"it holds a value of type {kind}; {hint}")


def refusal(sink: str, item: object, error: Exception) -> UsageError:
    """The failure of one item that a sink cannot take."""
    if isinstance(error, UnicodeEncodeError):
        why = "its text holds a lone surrogate, which UTF-8 cannot hold; write `.map(...)` to replace it"
    elif str(error).startswith("Out of range float"):
        why = "it holds NaN or infinity, which JSON cannot; make it None first with a `.map(...)`"
    elif isinstance(error, OverflowError):
        why = "it holds an integer beyond 64 bits; make it text first: `str(...)` in a `.map(...)`"
    elif isinstance(error, RecursionError):
        why = "it is nested too deeply"
    elif isinstance(error, TypeError | ValueError):
        why = str(error)
    else:
        why = f"{type(error).__name__}: {error}"
    kind = type(item).__name__
    refused = UsageError(f"{sink} cannot write the item {short(item)} of type {kind}: {why}")
    refused.__cause__ = error
    return refused
