"""What travels in an item's place when its call failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from overlapped.record import FailureRecord


@final
class Failure:
    """A failed item on its way to a `.catch` or to the end of the flow.

    It is private, so a result that happens to *be* an exception stays a value.

    Attributes:
        error: the exception, the user's own unless the library raised it.
        stage: name of the stage it comes from.
        item: what that stage had been given.
        attempts: calls made for it.
        weight: items it stands for; a failed batch call stands for all of its batch.
        dead: True if the frame that raised is gone (a source, a `through` generator, a transducer,
            a sink): nothing can come after it, so no `.catch` and no keep mode goes on past it.
    """

    __slots__ = ("attempts", "counted", "dead", "error", "item", "stage", "weight")

    def __init__(
        self,
        error: BaseException,
        stage: str,
        item: object = None,
        *,
        attempts: int = 1,
        weight: int = 1,
        dead: bool = False,
    ) -> None:
        self.error = error
        self.stage = stage
        self.item = item
        self.attempts = attempts
        self.weight = weight
        self.dead = dead
        self.counted = False  # in the run's record already

    def record(self) -> FailureRecord:
        """The failure as a frozen value for reports."""
        from overlapped.record import FailureRecord

        return FailureRecord(self.stage, self.item, self.error, self.attempts)

    def note(self) -> str:
        """One line that says where it happened, for `BaseException.add_note`."""
        if self.dead:
            return f"overlapped: raised by {self.stage}, which ends the run"
        tries = "" if self.attempts == 1 else f", attempt {self.attempts} of {self.attempts}"
        return f"overlapped: in stage {self.stage!r}, item {short(self.item)}{tries}"


def short(value: object, width: int = 120) -> str:
    """`repr` of any value in at most `width` characters, even if its own `repr` raises."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not hide the error that is being described
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= width else text[: width - 3] + "..."


def add_note(error: BaseException, *notes: str) -> None:
    """Add notes to the user's exception, unless its class refuses them: it must come out as itself."""
    try:
        known = getattr(error, "__notes__", ())
        for note in notes:
            if note not in known:
                error.add_note(note)
    except Exception:  # noqa: BLE001 - frozen or hostile exception classes; the error itself is what counts
        return


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Chain `cause` to an exception that has no cause yet, unless its class refuses."""
    try:
        if error.__cause__ is None:
            error.__cause__ = cause
    except Exception:  # noqa: BLE001 - as for notes
        return


def as_value(error: BaseException, name: str, *, kind: str = "stage") -> BaseException:
    """`error` itself, or a RuntimeError in its place if letting it travel would end some loop silently.

    StopIteration, StopAsyncIteration, GeneratorExit and CancelledError mean "the end" to whoever is
    iterating or awaiting; raised by a user's function they must not mean that to us (PEP 479).
    """
    from asyncio import CancelledError

    if isinstance(error, (StopIteration, StopAsyncIteration, GeneratorExit, CancelledError)):
        changed = RuntimeError(f"{kind} {name!r} raised {type(error).__name__}")
        changed.__cause__ = error
        return changed
    return error


MAX_RECORDED_FAILURES: Final = 1_000
"""Failures that a run keeps in its record; all are counted. It bounds the memory of a run that fails throughout."""
