"""Which failed calls are made again, how often, and after what wait.

Waits are exponential with full jitter: `random(0, min(cap_s, base_s * 2 ** n))`, which spreads
retries of many callers best (Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture
Blog, 2015).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from overlapped.errors import UsageError

_MAX_DOUBLINGS = 64  # 2**64 times any sensible base is beyond any cap; keeps the power a float


@dataclass(frozen=True, slots=True)
class Retry:
    """Calls that fail with one of `exceptions` are made again, up to `attempts` times in all.

    Args:
        attempts: calls in all, the first included; 1 = never again.
        exceptions: an Exception class or a tuple of them. `UsageError` is never retried.
        base_s: the longest first wait, s; it doubles with each attempt.
        cap_s: the longest wait of all, s.
        jitter: wait a random part of that time ("full jitter"), not all of it.
        split: a failed batch call is split in two halves, each made again. Off by default: what
            a half-applied batch did is repeated.
        retry_after_cap_s: the longest wait a service may ask for, s; beyond it the item fails.

    Raises:
        UsageError: a value breaks its rule.

    Example:
        >>> Retry(attempts=5, exceptions=OSError, jitter=False).delay_s(3, 0.0)
        0.4
    """

    attempts: int = 3
    exceptions: type[Exception] | tuple[type[Exception], ...] = Exception
    base_s: float = 0.1
    cap_s: float = 60.0
    jitter: bool = True
    split: bool = False
    retry_after_cap_s: float = 300.0

    def __post_init__(self) -> None:
        _check_attempts(self.attempts)
        _check_exceptions(self.exceptions)
        for name in ("base_s", "cap_s", "retry_after_cap_s"):
            _check_seconds(name, getattr(self, name))
        for name in ("jitter", "split"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise UsageError(f"Retry({name}): {name} must be True or False, got {value!r}")
        if self.cap_s < self.base_s:
            raise UsageError(f"Retry(cap_s): cap_s must be >= base_s ({self.base_s}), got {self.cap_s}")

    def is_retried(self, error: BaseException) -> bool:
        """True if a call that failed with `error` may be made again (attempts are not counted here)."""
        return isinstance(error, self.exceptions) and not isinstance(error, UsageError)

    def delay_s(self, attempt: int, random01: float) -> float:
        """Wait after failed attempt number `attempt` (1 = the first), s.

        Args:
            attempt: attempts made so far, >= 1.
            random01: a random number in [0, 1]; the caller draws it, this is arithmetic.
        """
        longest = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
        return longest * random01 if self.jitter else longest


def retry_after_s(error: BaseException) -> float | None:
    """Seconds the service asked us to wait: the `retry_after_s` attribute of `error`, if usable.

    None when there is none, or when it is no number, negative or NaN; infinity stays infinity.
    """
    try:
        value = getattr(error, "retry_after_s", None)
    except Exception:  # noqa: BLE001 - a property of the user's exception; its failure must not hide `error`
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an int beyond the floats
        return math.inf if value > 0 else None
    return seconds if seconds >= 0 else None


def _check_attempts(attempts: object) -> None:
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise UsageError(f"Retry(attempts): attempts must be an int >= 1, got {attempts!r}")


def _check_exceptions(exceptions: object) -> None:
    classes = exceptions if isinstance(exceptions, tuple) else (exceptions,)
    if not classes:
        raise UsageError("Retry(exceptions): exceptions must name at least one class, got ()")
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise UsageError(
                f"Retry(exceptions): exceptions must be an Exception class or a tuple of them, got {cls!r}"
            )


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UsageError(f"Retry({name}): {name} must be seconds >= 0, got {value!r}")
    if isinstance(value, int) and value > sys.float_info.max:
        raise UsageError(
            f"Retry({name}): {name} must be seconds that a float can hold, got an int of {value.bit_length()} bits; "
            f"for no limit, write math.inf"
        )
