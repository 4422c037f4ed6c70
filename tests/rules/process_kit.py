"""Stage functions for hosts: they stand at the top of a module, where another process finds them."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import re
import signal
import threading
import time
from typing import Any, Self

_TASKS: list[asyncio.Task[None]] = []  # of `leaves_a_task`


class Boom(Exception):
    """An exception like most."""


class Stubborn(Exception):
    """An exception that cannot be read back: its __init__ wants two arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class NotFound(Exception):
    """An exception whose __init__ makes the message."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} was not found")
        self.url = url


class Unpacks:
    """An object that fails to be unpacked in a process other than `pid` (or in it)."""

    def __init__(self, pid: int, *, elsewhere: bool) -> None:
        self.pid = pid
        self.elsewhere = elsewhere

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if (os.getpid() != self.pid) == self.elsewhere:
            raise Boom("it cannot be unpacked here")


def double(n: int) -> int:
    return 2 * n


def odd(n: int) -> bool:
    return n % 2 == 1


def pid(_: object) -> int:
    time.sleep(0.002)
    return os.getpid()


def several(n: int) -> Any:
    yield from [n] * n


def many(n: int) -> Any:
    yield from range(n)


def listed(n: int) -> list[int]:
    return [n] * n


def yields_then_fails(n: int) -> Any:
    yield n
    raise Boom(n)


def fails_at_3(n: int) -> int:
    if n == 3:
        raise Boom(n)
    return n


def fails_stubbornly(n: int) -> int:
    raise Stubborn("this", "that")


def finds_nothing(url: str) -> None:
    raise NotFound(url)


def makes_a_lock(n: int) -> Any:
    return threading.Lock() if n == 3 else n


def makes_what_cannot_be_read(item: tuple[int, int]) -> Any:
    n, parent = item
    return Unpacks(parent, elsewhere=False) if n == 3 else n


def yields_a_lock_at_3(n: int) -> Any:
    yield n
    if n == 3:
        yield threading.Lock()
    yield from [n] * 100


def spoils_its_first_result_once(item: tuple[int, str]) -> Any:
    """What it gives first cannot be read where the run is, the first time."""
    parent, path = item
    if not os.path.exists(path):
        count(0, path)
        yield Unpacks(parent, elsewhere=False)
    yield from range(100)


def leaves_an_exit_handler(n: int) -> int:
    """One that takes longer than a process whose handlers nobody waits for has."""

    def clean_up() -> None:
        time.sleep(0.1)
        print("cleaned up")

    atexit.register(clean_up)
    return n


async def aleaves_an_exit_handler(n: int) -> int:
    return leaves_an_exit_handler(n)


def leaves_a_thread(n: int) -> int:
    print("called")
    threading.Thread(target=time.sleep, args=(100,)).start()
    return n


async def aleaves_a_thread(n: int) -> int:
    return leaves_a_thread(n)


async def leaves_a_task(n: int) -> int:
    """One that ignores its cancellation."""

    async def stays() -> None:
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                continue

    print("called")
    _TASKS.append(asyncio.create_task(stays()))
    await asyncio.sleep(0)
    return n


def length(value: bytes) -> bytes:
    return value + b"!"


def naps(n: float) -> float:
    time.sleep(n)
    return n


def naps_and_says_where(n: float) -> tuple[int, float, float]:
    started = time.perf_counter()
    time.sleep(n)
    return os.getpid(), started, time.perf_counter()


def naps_and_counts(item: tuple[int, str]) -> tuple[int, int]:
    n, path = item
    count(n, path)
    time.sleep(0.01)
    return n, os.getpid()


def count(n: int, path: str) -> None:
    """Note a call; appending is atomic."""
    notes = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(notes, f"{n}\n".encode())
    os.close(notes)


def naps_through_signals(n: float) -> float:
    """As a call into C that never comes back."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    time.sleep(n)
    return n


def keeps_the_interpreter() -> None:
    """For hours: no other thread gets a turn."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def says_where_and_keeps_the_interpreter(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}.")
    keeps_the_interpreter()


def falls_silent_at_3(item: tuple[int, str]) -> int:
    n, how = item
    if n == 3 and how == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif n == 3:
        keeps_the_interpreter()
    return n


def short_but_for_7(n: int) -> int:
    if n == 700:
        time.sleep(0.5)
    return n


def dies_at_7(n: int) -> int:
    if n == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def dies_once(item: tuple[int, str]) -> int:
    """At item 7, if nobody has died yet."""
    n, path = item
    if n == 7:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return n
        os._exit(3)
    return n


def dies_once_at_10_and_fails_at_11(item: tuple[int, str]) -> int:
    """What is called with them in one group is slow, and item 0 keeps the run."""
    n, path = item
    count(n, path)
    if n == 11:
        raise Boom(n)
    if n == 10:
        dies_once((7, f"{path}.died"))
    if n == 0 or n > 11:
        time.sleep(1 if n == 0 else 0.3)
    return n


def forks_at_3(item: tuple[int, str, bool]) -> int:
    """At item 3 it leaves a process behind; `dies`: and ends, the first time."""
    n, path, dies = item
    if n == 3 and not os.path.exists(path):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        with open(path, "w", encoding="ascii") as file:
            file.write(str(child))
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
    return n


def yields_then_dies(n: int) -> Any:
    yield n
    time.sleep(0.2)
    if n == 1:
        os._exit(3)
    yield n


def leaves(n: int) -> int:
    raise SystemExit(5)


def asynchronous(n: int) -> Any:
    async def work() -> int:
        return n

    return work()


def streaming(n: int) -> Any:
    """A plain function that returns an async generator."""
    return aseveral(n)


def both_ways(n: int) -> Any:
    from overlapped import flow

    return flow(range(n))


def with_connection(n: int, connection: Any) -> Any:
    connection.note(n)
    return n, connection.pid


def naps_with_connection(n: int, connection: Any) -> int:
    connection.note(n)
    time.sleep(0.03)
    return n


class Connection:
    """A resource that says what happens to it in a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self.note("open")

    def note(self, what: object) -> None:
        with open(self.path, "a", encoding="ascii") as file:
            file.write(f"{what} {os.getpid()}\n")

    def close(self) -> None:
        self.note("close")


def opened_and_most(path: os.PathLike[str]) -> tuple[int, int]:
    """How many connections were opened, and how many at once at most in one process; all of them are closed."""
    counts: dict[str, list[int]] = {}
    with open(path, encoding="ascii") as file:
        for line in file:
            what, pid = line.split()
            counts.setdefault(pid, []).append({"open": 1, "close": -1}.get(what, 0))
    assert not any(sum(changes) for changes in counts.values())
    opened = sum(changes.count(1) for changes in counts.values())
    return opened, max(max(itertools.accumulate(changes)) for changes in counts.values())


def connect() -> Connection:
    return Connection(os.environ["CONNECTION_NOTES"])


def cannot_connect() -> Connection:
    raise Boom("no connection")


class DiesOnce:
    """A factory that kills its process the first time."""

    def __init__(self, folder: object) -> None:
        self.path = f"{folder}/died"

    def __call__(self) -> str:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return self.path
        os._exit(3)


class OpensOnce:
    """A factory that takes for ever from the second time on."""

    def __init__(self, folder: object) -> None:
        self.path = f"{folder}/opened"

    def __call__(self) -> str:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(100)
        return self.path


def with_path(item: tuple[int, str], connection: str) -> int:
    assert connection == item[1]
    return item[0]


def inner(n: int) -> int:
    from overlapped import flow

    return sum(flow(range(n)).map(double, on="process", concurrency=1))


# -- coroutine functions ----------------------------------------------------------------------------------


async def afalls_silent_at_3(item: tuple[int, str]) -> int:
    return falls_silent_at_3(item)


async def adouble(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


async def aodd(n: int) -> bool:
    await asyncio.sleep(0.001)
    return n % 2 == 1


async def aseveral(n: int) -> Any:
    for _ in range(n):
        await asyncio.sleep(0)
        yield n


async def ayields_a_lock_at_3(n: int) -> Any:
    for result in yields_a_lock_at_3(n):
        yield result


async def aspoils_its_first_result_once(item: tuple[int, str]) -> Any:
    for result in spoils_its_first_result_once(item):
        yield result


async def alisted(n: int) -> list[int]:
    return [n] * n


async def naps_awaiting(n: float) -> tuple[int, float, float]:
    started = time.perf_counter()
    await asyncio.sleep(n)
    return os.getpid(), started, time.perf_counter()


async def naps_and_says(item: tuple[float, str]) -> None:
    nap_s, path = item
    try:
        await asyncio.sleep(nap_s)
    except asyncio.CancelledError:
        with open(path, "w", encoding="ascii") as file:
            file.write("cancelled")
        raise


async def naps_awaiting_and_counts(item: tuple[int, str]) -> tuple[int, int]:
    n, path = item
    count(n, path)
    await asyncio.sleep(0.01)
    return n, os.getpid()


async def dies_awaiting_at_7(n: int) -> int:
    await asyncio.sleep(0.01)
    if n == 7:
        os._exit(3)
    return n


async def fails_awaiting_at_3(n: int) -> int:
    await asyncio.sleep(0.001)
    return fails_at_3(n)


async def with_session(n: int, session: Any) -> tuple[int, int]:
    await asyncio.sleep(0.001)
    assert session.is_open
    return n, session.pid


class Session:
    """A resource that belongs to a loop."""

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.is_open = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.is_open = False


def to_megabyte(_: object) -> bytes:
    return bytes(2**20)
