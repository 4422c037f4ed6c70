"""A server of ours in a process of its own: it prints its port and serves until its stdin ends, never longer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from overlapped.compare.base import ComparisonError

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 20.0
"""How long a server may take to print its port: a cold disk, a busy machine."""
LEAVE_S = 5.0
"""How long it may take to end once its stdin is closed."""


async def stdin_ended() -> None:
    """In the server: wait until the one who started it is gone, or has had enough."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, name="overlapped-server-stdin", daemon=True).start()
    await ended.wait()


@contextmanager
def running(module: str, *arguments: str, what: str) -> Iterator[int]:
    """`python -m module arguments`, gone at the end of the scope; gives its port.

    Raises:
        ComparisonError: it did not start.
    """
    # a session of its own: Ctrl-C goes to the whole group, but a draining flow still needs its server
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield _port(process, what)
    finally:
        _end(process)


def _port(process: subprocess.Popen[str], what: str) -> int:
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        line = process.stdout.readline() if process.stdout else ""
    finally:
        late.cancel()
    if not line.strip().isdigit():
        raise ComparisonError(f"{what} did not start; its own words are above")
    return int(line)


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
