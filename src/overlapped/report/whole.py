"""Data on standard output, every byte of it."""

from __future__ import annotations

import errno
import io
import select
import sys


def write_stdout(text: str) -> None:
    """Write `text` whole, and flush it.

    With `PYTHONUNBUFFERED` or `-u`, as in many containers, there is no buffer below `sys.stdout`, and what a pipe takes
    only in part, because a signal or io_uring interrupted the write, `print` loses without a word. What its encoding
    does not know is written as an escape, as on stderr.

    Raises:
        OSError: it is closed, or cannot be written.
    """
    if sys.stdout is None or sys.stdout.closed:
        raise OSError(errno.EBADF, "it is closed")
    encoding = sys.stdout.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    raw = getattr(sys.stdout, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    sys.stdout.flush()
    left = memoryview(text.encode(encoding))
    while left:
        written = raw.write(left)
        if written is None:  # somebody has made the pipe non-blocking, and it is full
            select.select([], [raw], [])
        left = left[written or 0 :]
