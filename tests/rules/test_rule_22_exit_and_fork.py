"""Rule 22: at interpreter exit live runs are closed; after fork an iterator says that it belongs to the parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest


def in_a_process(code: str, timeout_s: float = 20.0) -> tuple[int, str, str, float]:
    """Exit code, output, errors and time of a Python that runs `code`."""
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return done.returncode, done.stdout, done.stderr, time.monotonic() - before


START = """
import asyncio, sys, threading, time
from overlapped import flow
def source():
    try:
        n = 0
        while True:
            yield n
            n += 1
    finally:
        sys.stdout.write("closed\\n")
async def fn(n):
    try:
        await asyncio.sleep(0.001 if n < 5 else 1000)
    finally:
        if n == 5: sys.stdout.write("cancelled\\n")
    return n
"""


@pytest.mark.parametrize("alive", ["items = iter(chain); next(items)", "scope = chain.open(); next(scope.__enter__())"])
def test_at_exit_live_runs_are_closed(alive):
    code, out, err, took_s = in_a_process(
        f"{START}\nchain = flow(source).map(fn, concurrency=2)\n{alive}\ntime.sleep(0.1)"
    )
    assert (code, err) == (0, "")
    assert sorted(out.split()) == ["cancelled", "closed"]
    assert took_s < 4


@pytest.mark.slow
def test_at_exit_a_call_that_cannot_be_cancelled_does_not_keep_the_interpreter_alive():
    _, out, _, took_s = in_a_process("""
import threading, time
from overlapped import flow
begun = threading.Event()
def stuck(n):
    begun.set()
    time.sleep(1000)
items = iter(flow([1, 2]).map(stuck, on="thread"))
begun.wait(5)
print("end", flush=True)
""")
    assert out == "end\n"
    assert took_s < 10  # a grace of 5 s


def test_an_exception_of_the_program_is_shown_and_the_run_closed():
    code, out, err, took_s = in_a_process(
        f"{START}\nitems = iter(flow(source).map(fn, concurrency=2))\nnext(items)\nraise SystemExit('bye')"
    )
    assert code == 1
    assert err.strip().endswith("bye")
    assert "closed" in out
    assert took_s < 4


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@fork
def test_after_fork_an_iterator_raises_a_usage_error_and_the_parent_goes_on():
    code, out, err, _ = in_a_process("""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from overlapped import UsageError, flow
items = iter(flow(range(1000)).map(lambda n: n))
assert next(items) == 0
pid = os.fork()
if pid == 0:
    try:
        next(items)
        os._exit(3)
    except UsageError as error:
        ok = "fork" in str(error)
    items.close()
    del items
    import gc; gc.collect()
    # and a new run works in the child
    os._exit(0 if ok and list(flow(range(5)).map(lambda n: n + 1)) == [1, 2, 3, 4, 5] else 4)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
print(sum(1 for _ in items))
""")
    assert (code, err) == (0, "")
    assert out.split() == ["0", "999"]


@fork
def test_after_fork_the_child_may_exit_normally():
    code, out, err, took_s = in_a_process("""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from overlapped import flow
items = iter(flow(range(10**9)).map(lambda n: n))
next(items)
pid = os.fork()
if pid == 0:
    sys.exit(0)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), next(items))
""")
    assert (code, err) == (0, "")
    assert out.split() == ["0", "1"]
    assert took_s < 8


@fork
def test_after_fork_finalizers_of_the_child_do_not_end_the_parents_run():
    code, out, err, _ = in_a_process("""
import gc, os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from overlapped import flow
closed = []
def source():
    try:
        yield from range(100_000)
    finally:
        closed.append(os.getpid())
items = iter(flow(source))
next(items)
pid = os.fork()
if pid == 0:
    del items
    gc.collect()
    os._exit(0)
os.waitpid(pid, 0)
assert closed == []
print(sum(1 for _ in items), closed == [os.getpid()])
""")
    assert (code, err) == (0, "")
    assert out.split() == ["99999", "True"]


def test_a_loop_that_ends_with_a_run_alive_ends_the_run():
    code, out, err, took_s = in_a_process(f"""{START}
async def main():
    items = aiter(flow(source).map(fn, concurrency=2))
    for _ in range(5):
        await anext(items)
    await asyncio.sleep(0.01)
    globals()["kept"] = items  # not closed, not dropped
asyncio.run(main())
print("end")
""")
    assert (code, err) == (0, "")
    assert sorted(out.split()) == ["cancelled", "closed", "end"]
    assert took_s < 4
