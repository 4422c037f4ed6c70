"""Every error that `overlapped` itself raises, as one tree.

    OverlappedError
    ├── UsageError (also TypeError and ValueError)   the flow is written wrongly; nothing was started
    ├── Overloaded                                   raise it in a stage function: "slow down"; may carry retry_after_s
    ├── TooLarge                                     raise it in a stage function: "this batch is too big, split it"
    ├── CallTimeout (also TimeoutError)              one attempt of one call took longer than timeout_s
    ├── TooManyFailures                              more items failed than max_failures allows
    ├── StuckCalls                                   every slot of a stage is held by a call that cannot be cancelled
    ├── RemoteError                                  what another process raised cannot be brought back; its text can
    └── HostDied                                     the process that made a call died, twice

An exception raised by the user's own function is never wrapped: it comes out as itself, with notes
that say which stage and which item it was. Every exception that ends a run carries `.report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class OverlappedError(Exception):
    """Base of every error that `overlapped` raises by itself.

    Attributes:
        report: the `Report` of the run that it ended, if it ended one.
    """

    report: Any


class UsageError(OverlappedError, TypeError, ValueError):
    """The flow is written in a way that cannot work; the message shows what to write instead.

    It is both a `TypeError` and a `ValueError`, because callers know the misuse under either name.
    """


class Overloaded(OverlappedError):
    """The service asked to slow down (HTTP 429, 503): an outcome `drop` for the controller.

    Args:
        message: what happened.
        retry_after_s: seconds for which the service wants no new calls, if it said so.
    """

    def __init__(self, message: str = "overloaded", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLarge(OverlappedError):
    """A batch was refused for its size: it is split in halves and each half is tried again."""


class CallTimeout(OverlappedError, TimeoutError):
    """One attempt of one call took longer than the stage's `timeout_s`."""


class TooManyFailures(OverlappedError):
    """More items failed than `max_failures` allows.

    Attributes:
        failures: the first exceptions that were counted, oldest first (bounded).
    """

    def __init__(self, message: str, failures: Sequence[BaseException] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)


class StuckCalls(OverlappedError):
    """Every slot of a stage is held by a call that timed out and cannot be cancelled."""


class RemoteError(OverlappedError):
    """Something another process raised that cannot be brought back as itself, or its traceback.

    Attributes:
        text: the traceback, as it would have been printed there.
    """

    def __init__(self, message: str, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class HostDied(OverlappedError):
    """The process in which a call ran died, and so did the one that tried it again alone."""
