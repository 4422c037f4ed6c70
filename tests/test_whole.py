"""What is written to stdout arrives whole, whatever interrupts it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SIZE = 1_000_000
WRITER = f"""
import os, signal
from overlapped.report.whole import write_stdout
{{more}}
signal.signal(signal.SIGALRM, lambda *_: os.write(2, b"x"))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
write_stdout("y" * {SIZE} + chr(10))
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no timer signals there")
@pytest.mark.parametrize(
    ("unbuffered", "more"),
    [("", ""), ("1", ""), ("1", "os.set_blocking(1, False)")],
    ids=["buffered", "unbuffered", "unbuffered, and the pipe does not block"],
)
def test_a_write_that_signals_interrupt_loses_nothing(unbuffered, more):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER.format(more=more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stderr.read(5) == b"xxxxx"  # the pipe is full by now, and the write is interrupted
        assert len(writer.stdout.read()) == SIZE + 1
        writer.stderr.read()
    assert writer.returncode == 0
