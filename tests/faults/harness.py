"""Runs a test's body in a fresh interpreter with a hard time limit, several at once.

`@child` makes a pytest test of a function (plain or `async def`) that runs elsewhere: the test waits
for the verdict of `python -m tests.faults MODULE NAME ...`. Every keyword argument of `@child` that is a list
is a parameter of the function; the child runs all combinations, one after the other. Those in `apart` make
tests of their own.

This file is imported in the child too, so it imports nothing but the standard library.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

LIMIT_S = 10.0  # on a machine that does nothing else, and ...
LOOPS, LOOPS_S = 300_000, 0.004  # ... makes so many empty loops in so many seconds
TELL_S = 8.5  # a child that hangs says where, before it is killed
BUSY_KEY = "FAULTS_BUSY"  # how many times longer everything may take: the child is told in its environment
WORKERS = 2
ROOT = Path(__file__).parents[2]
OK = "nothing left over"

QUIET = {name for name in os.environ if name.startswith("PYTHON")} | {"COVERAGE_PROCESS_START"}


@dataclass(frozen=True)
class Place:
    """The kind of interpreter a case runs in."""

    flags: tuple[str, ...] = ("-W", "default")
    env: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable
    loop: str = "asyncio"  # what coroutine cases run on: "asyncio", "uvloop"
    has_uvloop: bool = True  # False: as if it were not installed
    eager: bool = False  # an eager task factory
    in_thread: bool = False  # the case runs in a thread that is not the main one


@dataclass(frozen=True)
class Result:
    """What became of a child."""

    code: int | None  # None: it was killed for taking too long
    out: str
    err: str
    took_s: float

    def __str__(self) -> str:
        end = f"exit code {self.code}" if self.code is not None else f"KILLED after {self.took_s:.1f} s"
        return f"{end}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass(frozen=True)
class Case:
    """A test body, and how it is to be run and judged."""

    fn: Callable[..., Any]
    judge: Callable[[Result], None]
    place: Place = Place()
    apart: dict[str, list[Any]] = field(default_factory=dict)  # a process for each combination
    together: dict[str, list[Any]] = field(default_factory=dict)  # all in one process

    def command(self, params: dict[str, Any]) -> list[str]:
        """The child's command line."""
        where = {"loop": self.place.loop, "eager": self.place.eager, "has_uvloop": self.place.has_uvloop}
        where["in_thread"] = self.place.in_thread
        arguments = [f"{self.fn.__module__}:{self.fn.__name__}", json.dumps(params), json.dumps(where)]
        return [self.place.python, *self.place.flags, "-m", "tests.faults", *arguments]


def no_complaint(result: Result) -> None:
    """The body ended, nothing was left, and nobody wrote to stderr."""
    __tracebackhide__ = True
    assert result.code == 0, result
    assert result.out.rstrip().endswith(OK), result
    assert not result.err, result


def child(
    fn: Callable[..., Any] | None = None,
    *,
    judge: Callable[[Result], None] = no_complaint,
    place: Place | None = None,
    apart: dict[str, list[Any]] | None = None,
    **together: list[Any],
) -> Any:
    """Make a test of `fn` that runs in a process of its own."""
    if fn is None:
        return lambda fn: child(fn, judge=judge, place=place, apart=apart, **together)
    case = Case(fn, judge, place or Place(), apart or {}, together)

    def test(request: Any, **params: Any) -> None:
        __tracebackhide__ = True
        case.judge(request.config.stash[POOL_KEY].result(request.node))

    names = ["request", *case.apart]
    test.__name__, test.__doc__, test.__module__ = fn.__name__, fn.__doc__, fn.__module__
    test.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # pytest reads it
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    if apart and "pytest" in sys.modules:
        test.pytestmark = [_parametrized(case)]  # type: ignore[attr-defined]  # pytest reads it
    test.case = case  # type: ignore[attr-defined]  # the child finds its body by it
    return test


def combinations(matrix: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All ways to choose one of each."""
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]


def in_words(params: dict[str, Any]) -> str:
    """Parameters for people."""
    return " ".join(f"{name}={value}" for name, value in params.items())


def _parametrized(case: Case) -> Any:
    import pytest

    rows = [pytest.param(*params.values(), id=in_words(params)) for params in combinations(case.apart)]
    return pytest.mark.parametrize(tuple(case.apart), rows)


POOL_KEY: Any = None  # set by conftest: pytest is not imported here


class Pool:
    """Starts the children of all selected tests, `WORKERS` at a time, in the order of the tests."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="faults")
        self._results: dict[str, Future[Result]] = {}
        for item in items:
            case = getattr(getattr(item, "function", None), "case", None)
            if isinstance(case, Case):
                params = getattr(getattr(item, "callspec", None), "params", {})
                self._results[item.nodeid] = self._executor.submit(run, case, params)

    def result(self, item: Any) -> Result:
        """Wait for one test's child."""
        return self._results.pop(item.nodeid).result()

    def close(self) -> None:
        """Start no more; wait for those that run."""
        self._executor.shutdown(cancel_futures=True)


def run(case: Case, params: dict[str, Any]) -> Result:
    """Run one child to its end, or kill it and all it started."""
    return run_command(case.command(params), case.place.env)


@functools.cache
def slowness() -> float:
    """How many times slower this machine is than that for which the limit was made; 1 if it is faster."""
    times_s = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(LOOPS):
            pass
        times_s.append(time.perf_counter() - started)
    return max(1.0, min(times_s) / LOOPS_S)


def run_command(command: list[str], env: dict[str, str] | None = None, *, limit_s: float = LIMIT_S) -> Result:
    """Run a command in a session of its own, with more time on a machine that is slow, or busy with other things."""
    busy = slowness() * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    kept = {name: value for name, value in os.environ.items() if name not in QUIET}
    started = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0", BUSY_KEY: str(busy)} | (env or {}),
        start_new_session=True,
    ) as process:
        code: int | None
        try:
            out, err = process.communicate(timeout=limit_s * busy)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            code = None
    return Result(code, out, err, time.monotonic() - started)
