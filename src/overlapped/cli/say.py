"""Words for people on stderr: what, where and what to do in one line; tracebacks of their own frames only."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import contextmanager, redirect_stdout, suppress
from enum import IntEnum
from typing import TYPE_CHECKING

from overlapped.report import whole
from overlapped.report.plain import cut, escape

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_CHARS = 500
"""Longest message line: whole sentences with a path, never a page."""


class ExitCode(IntEnum):
    """What the command's end says to the shell."""

    OK = 0
    FAILED = 1
    """The flow or the tool failed, or output was lost."""
    USAGE = 2
    """Bad usage or input; nothing was started."""
    ITEMS_FAILED = 3
    """Finished, but some items failed."""
    INTERRUPTED = 130
    PIPE = 141
    """Nobody read stdout any more."""
    TERMINATED = 143


class Problem(Exception):
    """A command cannot go on: the message, the exit code, and the user's frames if their code raised."""

    def __init__(self, message: str, code: int = ExitCode.USAGE, *, traceback: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.traceback = traceback


def write_stderr(text: str) -> None:
    """Write to stderr; that it is closed or gone is no reason to fail."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed, a broken pipe, or None (no console): there is nobody to tell


def write_stdout(line: str) -> None:
    """Write one line of data.

    Raises:
        Problem: it does not get there (BrokenPipeError comes out as itself: nobody wants it).
    """
    try:
        whole.write_stdout(f"{line}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Problem(f"writing to stdout: {error}", ExitCode.FAILED) from error


@contextmanager
def prints_on_stderr() -> Iterator[None]:
    """What the job prints goes to stderr, from its processes too: stdout is for the one object that comes after."""
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        try:
            number = stdout.fileno()
        except (AttributeError, OSError):  # None, or no file
            yield
            return
        stdout.flush()
        own = os.dup(number)
        os.dup2(2, number)
        try:
            yield
        finally:
            with suppress(OSError):  # stderr is gone
                stdout.flush()
            os.dup2(own, number)
            os.close(own)


def say(message: str) -> None:
    """One line on stderr, in the command's name, harmless whatever the message holds."""
    write_stderr(f"overlapped: {cut(escape(message), MESSAGE_CHARS)}\n")


def traceback_text(error: BaseException, *, ours: bool = False) -> str:
    """The traceback, escaped: the user's frames only (`ours=True`: all); "" if no frame is left."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    if not ours:
        kept = _keep_users_frames(shown)
        if not kept and not isinstance(error, SyntaxError):  # which shows the line by itself
            return ""
    lines = "".join(shown.format()).splitlines()
    return "".join(f"{escape(line)}\n" for line in lines)


def users_place(error: BaseException) -> str:
    """The deepest line of the user's own code in the traceback, as "job.py:12", else of a library; "" for neither."""
    from overlapped._engine.watch import is_users

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    frames = [frame for frame in frames if is_users(os.path.abspath(frame.filename))] or frames
    if isinstance(error, SyntaxError) and error.filename:
        return os.path.basename(error.filename) + (f":{error.lineno}" if error.lineno else "")
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _keep_users_frames(shown: traceback.TracebackException | None) -> int:
    """Drop the frames that are not the user's, through causes and groups; count the others."""
    if shown is None:
        return 0
    users = [frame for frame in shown.stack if _is_users(frame.filename)]
    shown.stack = traceback.StackSummary.from_list(users)
    linked = (shown.__cause__, shown.__context__, *(shown.exceptions or ()))
    return len(users) + sum(_keep_users_frames(other) for other in linked)


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_JOBS = os.path.join(_OURS, "cli", "jobs")
_LOOP = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "asyncio")


def _is_users(filename: str) -> bool:
    if filename.startswith(("<frozen ", "uvloop/")):  # compiled in: they name no file of this machine
        return False
    path = os.path.abspath(filename)
    if path.startswith(_JOBS + os.sep):
        return True
    return not path.startswith((_OURS + os.sep, _LOOP + os.sep))
