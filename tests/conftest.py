"""What every test is checked for: nothing left running or open, nothing complained."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Another one: pytest --hypothesis-profile thorough
settings.register_profile("ci", max_examples=300, deadline=None)
settings.register_profile("thorough", max_examples=2_000, deadline=None)
settings.load_profile("ci")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: every child would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

GRACE_S = 2.0  # a thread that was told to end needs a moment; nothing of ours may need more

_FDS = next((path for path in ("/proc/self/fd", "/dev/fd") if os.path.isdir(path)), None)


@pytest.fixture(params=[True, False], ids=["ordered", "as_completed"])
def ordered(request: pytest.FixtureRequest) -> bool:
    """Both orders of a stage."""
    return bool(request.param)


@pytest.fixture(params=[1, 5], ids=["limit1", "limit5"])
def limit(request: pytest.FixtureRequest) -> int:
    """One call at a time, and several."""
    return int(request.param)


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """Fails a test whose event loop is blocked by a known blocking call."""
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx():
        yield


class _Collect(logging.Handler):
    """Keeps what asyncio's default exception handler says (it speaks through this logger only)."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(logging.Formatter().format(record))


@pytest.fixture
def loop_errors() -> Iterator[list[str]]:
    """What loops' exception handlers said; a test that expects something clears it."""
    handler = _Collect()
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def loop_made_once() -> None:
    """libuv opens one pair of descriptors for the whole process with its first loop, and keeps it."""
    from overlapped._engine.loop import new_loop

    new_loop().close()


@pytest.fixture(autouse=True)
def nothing_left_over(request: pytest.FixtureRequest, loop_errors: list[str]) -> Iterator[None]:
    """Fails a test that leaves a task, thread, child process or descriptor, or makes a loop complain."""
    probes: dict[str, Callable[[], set[str]]] = {
        "tasks": _pending_tasks,
        "threads": _our_threads,
        "child processes": _children,
        "descriptors": _descriptors,
    }
    if request.node.get_closest_marker("keeps_descriptors"):
        del probes["descriptors"]
    before = {name: probe() for name, probe in probes.items()}
    yield
    found = {name: _what_stays(probe, before[name]) for name, probe in probes.items()}
    left = [f"{name}: {', '.join(sorted(what))}" for name, what in found.items() if what]
    if loop_errors:
        left.append("the loop's exception handler was called:\n" + "\n".join(loop_errors))
    if left:
        pytest.fail("left over after the test:\n" + "\n".join(left), pytrace=False)


def _what_stays(probe: Callable[[], set[str]], before: set[str]) -> set[str]:
    """What is new since `before`, after a collection and `GRACE_S` to end."""
    if not probe() - before:
        return set()
    gc.collect()
    deadline = time.monotonic() + GRACE_S
    while (left := probe() - before) and time.monotonic() < deadline:
        time.sleep(0.005)
    return left


def _pending_tasks() -> set[str]:
    # all_tasks() asks for a loop, and the loops of a test are closed by now. 3.12 renamed the set.
    names = ("_scheduled_tasks", "_all_tasks")
    tasks: Any = next((getattr(asyncio.tasks, name) for name in names if hasattr(asyncio.tasks, name)), ())
    return {f"{id(task):x} {task!r}" for task in list(tasks) if not task.done()}


def _our_threads() -> set[str]:
    return {
        f"{thread.name} ({thread.ident})" for thread in threading.enumerate() if thread.name.startswith("overlapped")
    }


def _children() -> set[str]:
    if sys.platform == "win32":
        return set()
    try:  # cheap when there is no child at all, and it reaps nobody
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    return {f"process {pid}" for pid in _child_pids()} or {"a child process"}


def _child_pids() -> set[str]:
    pids: set[str] = set()
    for task in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                pids.update(file.read().split())
        except OSError:  # the thread ended, or a kernel without this file
            continue
    return pids


def _descriptors() -> set[str]:
    if _FDS is None:
        return set()
    found: set[str] = set()
    for number in os.listdir(_FDS):
        try:
            found.add(f"{number} -> {os.readlink(f'{_FDS}/{number}')}")
        except OSError:  # the one that listed the folder
            continue
    return found
