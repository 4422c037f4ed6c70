"""Calls in actors of a Ray cluster: coroutines many at once on the loop of each, plain functions in its threads."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import itertools
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from overlapped._engine.failure import short
from overlapped._engine.frames import frame, unframed
from overlapped._engine.links import usable_cpus
from overlapped._engine.parcels import Packing
from overlapped._version import __version__
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.host import End
    from overlapped._engine.links import Link, OnFrame, OnGone

KINDS: Final = frozenset({"plain", "generator", "coroutine", "async_generator"})
"""Kinds of functions that this lane takes."""

PACKING: Final = Packing("ray.cloudpickle", has_main=False)
"""Ray brings its own cloudpickle, and another machine does not have the script that is run here."""

STORE_BYTES: Final = 100 * 2**20
"""Shared memory of a Ray that we start: our chunks have half a MiB, and lie there only while they are under way."""

TELLS: Final = 2
"""Calls with frames that are under way to an actor: one is worked on, one is on its way; what comes meanwhile goes
together in the next. Each costs about 0.5 ms, whatever it carries."""

AHEAD_S: Final = 0.02
"""Work that lies ready in an actor: the way there and back takes 1 ms, and ten on a busy machine. 10,000 calls of
100 ms, 1,000 at once, took 1.28 s with it where they took 1.48 s with 4 ms (benchmarks/lanes.py --only ray)."""

PINGS: Final = 5
"""The clock of another machine is asked for so often; the quickest answer tells it best."""


def refuse_here(at: str) -> None:
    """Refuse where Ray is not installed.

    Raises:
        UsageError: with the line to write.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(f"{at}: on=\"ray\" needs Ray; write  pip install 'overlapped[ray]'")


def most_hosts() -> int:
    """As many as the cluster has CPUs."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def is_single(kind: str) -> bool:  # noqa: ARG001 - every lane is asked
    """False: an actor makes many calls at once, of both kinds of functions."""
    return False


def can_cancel(kind: str) -> bool:
    """True for coroutines; plain functions run in threads of the actor."""
    return kind not in ("plain", "generator")


def launch(on_frame: OnFrame, on_gone: OnGone) -> Link:
    """Start an actor."""
    return ActorLink(asyncio.get_running_loop(), on_frame, on_gone)


@functools.cache
def _actors() -> Any:
    """The class of our actors, as Ray knows it; Ray itself is one for a whole process."""
    import ray

    # By name: what an actor runs stands above the lanes, of which it uses some.
    kind = importlib.import_module("overlapped._actor").Actor
    # What an actor had in hand is known here, and only here: nothing is done again behind our back. It reserves no CPU:
    # of two stages of a flow, each would wait for those of the other.
    return ray.remote(max_restarts=0, max_task_retries=0, num_cpus=0)(kind)


_TURNS: Final = itertools.count()  # whose turn it is to get an actor, for all runs: none of them knows of the others


def _next_node() -> Any:
    """Where the next actor is to run. Ray's own SPREAD puts two that start together on one node now and then."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cpus = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
    return NodeAffinitySchedulingStrategy(turn_of(next(_TURNS), cpus), soft=False)


def turn_of(turn: int, cpus: dict[str, float]) -> str:
    """The node whose turn it is: each has as many as it has CPUs, but none has two in a row while others wait."""
    most = int(max(cpus.values()))
    turns = [node for taken in range(most) for node in sorted(cpus) if cpus[node] > taken]
    turns = turns or sorted(cpus)
    return turns[turn % len(turns)]


class About(NamedTuple):
    """Who an actor is.

    Attributes:
        pid: its process.
        host: the name of its machine.
        boot: which start of that machine this is: processes that agree about it have one clock. "" if not known.
    """

    pid: int
    host: str
    boot: str


def about() -> About:
    """Who this process is."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return About(os.getpid(), socket.gethostname(), boot)


class ActorLink:
    """The way to one actor: a call takes all frames that there are, another one asks for those from it.

    Args:
        on_frame: told of every frame.
        on_gone: told how it ended, once it is no more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_frame: OnFrame, on_gone: OnGone) -> None:
        self._loop = loop
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._unsent: list[bytes] = []
        self._number = self._told = 0
        self._is_over = False
        self._best_s = float("inf")
        self.is_gone = False
        self.offset_s = 0.0
        self.ahead_s = AHEAD_S
        self._actor: Any = _actors().options(scheduling_strategy=_next_node()).remote(__version__)
        self.place = "a Ray actor"
        self._ask(self._actor.about.remote(), self._knows)

    def send(self, about: list[Any], values: bytes = b"") -> None:
        """Send a frame, together with the others of this turn."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += frame(about, values)

    def _flush(self) -> None:
        if self._unsent and not self.is_gone and self._number - self._told < TELLS:
            frames, self._unsent = b"".join(self._unsent), []
            self._ask(self._actor.tell.remote(self._number, frames), self._has_told)
            self._number += 1

    def _has_told(self, nothing: None) -> None:
        self._told += 1
        self._flush()

    def kill(self) -> None:
        """End its process."""
        import ray

        ray.kill(self._actor)

    def _ask(self, answer: Any, take: Callable[[Any], None]) -> None:
        """Have `take` called with an answer of the actor; if there is none, it has gone."""

        def answered(future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                take(future.result())
            else:
                self._ended(error)

        asyncio.wrap_future(answer.future(), loop=self._loop).add_done_callback(answered)

    # -- its clock ----------------------------------------------------------------------------------------

    def _knows(self, who: Any) -> None:
        self.place = f"Ray actor {who.pid} on {who.host}"
        if who.boot and who.boot == about().boot:
            self._listen()
        else:
            self._ping(PINGS)

    def _ping(self, left: int) -> None:
        asked_s = time.perf_counter()

        def pong(their_s: float) -> None:
            took_s = time.perf_counter() - asked_s
            if took_s < self._best_s:
                self._best_s = took_s
                self.offset_s = asked_s + took_s / 2 - their_s
            if left > 1:
                self._ping(left - 1)
            else:
                self._listen()

        self._ask(self._actor.clock.remote(), pong)

    # -- what it says -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._ask(self._actor.hear.remote(), self._heard)

    def _heard(self, said: tuple[bool, bytes]) -> None:
        is_over, frames = said
        for about, values in unframed(frames):
            self._on_frame(about, values)
        if is_over:
            self._is_over = True
            self.kill()
        self._listen()  # if it is over, until that is so

    def _ended(self, error: BaseException) -> None:
        """It does not answer: it is no more, or cannot be reached, which for us is the same."""
        if self.is_gone:
            return
        self.is_gone = True
        self.kill()
        self._on_gone("exit code 0" if self._is_over else _how(error))


def _how(error: BaseException) -> str:
    """Ray's message about an actor that has ended, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    because = [line for line in lines if "because" in line]
    return f"{type(error).__name__} ({short((because or lines or ['?'])[0])[1:-1]})"


# -- Ray itself --------------------------------------------------------------------------------------------


class _Ours:
    """The Ray that we have started. It is one for a whole process, as Ray is, and ends with the last run that uses it.

    It lives in a thread of its own: its processes end with the thread that started them, and starting takes seconds.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.end = threading.Event()
        self.thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Start Ray, unless it runs; False if it runs and is not ours. Blocks."""
        import ray

        with self.lock:
            if not self.users:
                if ray.is_initialized():
                    return False
                self._start()
            self.users += 1
            return True

    def _start(self) -> None:
        ready = threading.Event()
        failed: list[BaseException] = []
        self.end = threading.Event()
        self.thread = threading.Thread(
            target=self._live, args=(ready, failed, self.end), name="overlapped:ray", daemon=True
        )
        self.thread.start()
        ready.wait()
        if failed:
            self.thread.join()
            raise failed[0]

    def _live(self, ready: threading.Event, failed: list[BaseException], end: threading.Event) -> None:
        import ray

        # Its sockets and logs. Not in TMPDIR: the path of a socket may have 107 bytes, of which Ray takes 60.
        folder = tempfile.mkdtemp(prefix="overlapped-ray-", dir="/tmp")
        try:
            _start_ray(folder)
        except BaseException as error:  # noqa: BLE001 - raised by the run that wants it
            failed.append(error)
        ready.set()
        if not failed:
            end.wait()
        ray.shutdown(wait_for_processes=True)
        shutil.rmtree(folder, ignore_errors=True)

    def release(self) -> None:
        """Shut it down if nobody else uses it. Blocks."""
        with self.lock:
            self.users -= 1
            if not self.users and self.thread is not None:
                self.end.set()
                self.thread.join()
                self.thread = None


def _start_ray(folder: str) -> None:
    """Connect to the cluster whose address Ray's own variable names (a job on a cluster has it), or start Ray here."""
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            address="local",
            num_cpus=usable_cpus(),
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _temp_dir=folder,
            **quiet,
        )


_OURS: Final = _Ours()


async def begin() -> End | None:
    """Use the Ray that this process has initialized; if there is none, start one for the run."""
    is_ours = False

    def acquire() -> None:
        nonlocal is_ours
        is_ours = _OURS.acquire()

    try:
        await _apart(acquire)
    except asyncio.CancelledError:
        if is_ours:
            await _apart(_OURS.release)
        raise
    if not is_ours:
        return None

    async def end() -> None:
        await _apart(_OURS.release)

    return end


async def _apart(work: Callable[[], Any]) -> Any:
    """Call `work()` in a thread of its own, and wait for it, also when cancelled meanwhile: then after it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        value: Any = None
        failed: BaseException | None = None
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            failed = error
        loop.call_soon_threadsafe(settle, value, failed)

    def settle(value: Any, failed: BaseException | None) -> None:
        if failed is None:
            done.set_result(value)
        else:
            done.set_exception(failed)

    thread = threading.Thread(target=run, name="overlapped:ray", daemon=True)
    thread.start()
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    thread.join()
    if cancelled is not None:
        raise cancelled
    return done.result()
