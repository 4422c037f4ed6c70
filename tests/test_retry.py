"""What a retry promises: which failures, how often, how long between."""

from __future__ import annotations

import asyncio
import math

import pytest

from overlapped.errors import CallTimeout, Overloaded, UsageError
from overlapped.retry import Retry, retry_after_s


def test_waits_double_up_to_the_cap():
    retry = Retry(base_s=0.1, cap_s=1.0, jitter=False)
    assert [retry.delay_s(k, 0.5) for k in range(1, 7)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_full_jitter_takes_any_part_of_the_wait():
    retry = Retry(base_s=0.1, cap_s=1.0)
    assert retry.delay_s(3, 0.0) == 0.0
    assert retry.delay_s(3, 0.5) == pytest.approx(0.2)
    assert retry.delay_s(3, 1.0) == pytest.approx(0.4)


def test_a_huge_attempt_number_stays_at_the_cap():
    assert Retry(attempts=10**9).delay_s(10**9, 1.0) == 60.0


def test_only_the_named_exceptions_are_retried():
    assert Retry(exceptions=OSError).is_retried(ConnectionResetError())
    assert not Retry(exceptions=OSError).is_retried(ValueError())
    assert Retry(exceptions=(OSError, KeyError)).is_retried(KeyError())
    assert Retry().is_retried(CallTimeout())
    assert Retry().is_retried(Overloaded())


@pytest.mark.parametrize("error", [UsageError(), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_usage_errors_and_cancels_are_never_retried(error):
    assert not Retry(exceptions=(Exception, ValueError)).is_retried(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, r"^Retry\(attempts\): attempts must be an int >= 1, got 0$"),
        ({"attempts": 2.5}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"attempts": None}, "attempts"),
        ({"exceptions": BaseException}, r"^Retry\(exceptions\): exceptions must be an Exception class"),
        ({"exceptions": (OSError, KeyboardInterrupt)}, "KeyboardInterrupt"),
        ({"exceptions": ()}, "at least one"),
        ({"exceptions": OSError()}, "exceptions"),
        ({"exceptions": [OSError]}, "exceptions"),
        ({"base_s": -1}, r"^Retry\(base_s\): base_s must be seconds >= 0, got -1$"),
        ({"base_s": math.nan}, "base_s"),
        ({"base_s": "1"}, "base_s"),
        ({"cap_s": 0.01}, r"cap_s must be >= base_s \(0.1\), got 0.01"),
        ({"retry_after_cap_s": -1}, "retry_after_cap_s"),
        ({"jitter": 1}, r"jitter must be True or False, got 1"),
        ({"split": None}, "split"),
        ({"base_s": 10**400, "cap_s": 10**400}, r"base_s must be .* float .*1329 bits.*math\.inf"),
        ({"cap_s": 10**400}, "cap_s must be .* float"),
        ({"retry_after_cap_s": 10**400}, "retry_after_cap_s must be .* float"),
    ],
)
def test_a_retry_that_cannot_work_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Retry(**options)


def test_no_limit_on_waits_is_written_as_infinity():
    assert Retry(cap_s=math.inf, retry_after_cap_s=math.inf, jitter=False).delay_s(5, 0.0) == pytest.approx(1.6)


class AskingError(Exception):
    def __init__(self, value):
        self.retry_after_s = value


class BrokenError(Exception):
    @property
    def retry_after_s(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0),
        (0, 0.0),
        (1.5, 1.5),
        (math.inf, math.inf),
        (10**400, math.inf),
        (-(10**400), None),
        (math.nan, None),
        (-1, None),
        (True, None),
        ("5", None),
        (None, None),
    ],
)
def test_only_a_usable_wait_is_read_from_an_exception(value, seconds):
    assert retry_after_s(AskingError(value)) == seconds


def test_an_exception_without_a_wait_has_none():
    assert retry_after_s(ValueError()) is None
    assert retry_after_s(BrokenError()) is None
    assert retry_after_s(Overloaded(retry_after_s=2)) == 2.0
