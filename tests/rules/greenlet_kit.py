"""Stage functions for the greenlet lane: blocking code, as people write it, at the top of a module."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import time
from typing import Any

POSTGRES = {"host": "127.0.0.1", "user": os.environ.get("PGUSER", "root"), "database": "test"}
NAP_S = 0.5

Span = tuple[int, float, float]
"""Process, start and end of a call."""


def naps(n: float) -> float:
    time.sleep(n)
    return n


def spans(n: float) -> Span:
    started = time.perf_counter()
    time.sleep(n)
    return os.getpid(), started, time.perf_counter()


def is_patched(_: int) -> tuple[bool, bool]:
    from gevent import monkey

    return monkey.is_module_patched("socket"), monkey.is_module_patched("threading")


def naps_and_says(item: tuple[float, str]) -> float:
    """Stopped in its sleep, it says so; it swallows what nobody should."""
    nap_s, path = item
    try:
        time.sleep(nap_s)
    except BaseException as error:
        with open(path, "w", encoding="ascii") as file:
            file.write(type(error).__name__)
        raise
    return nap_s


def will_not_stop(nap_s: float) -> float:
    end_s = time.perf_counter() + nap_s
    while (left_s := end_s - time.perf_counter()) > 0:
        try:
            time.sleep(left_s)
        except BaseException:  # noqa: BLE001, S112 - that is what it is for
            continue
    return nap_s


def times_out(n: int) -> int:
    import gevent

    with gevent.Timeout(0.01):
        time.sleep(10 if n == 3 else 0)
    return n


def exits_at_3(n: int) -> int:
    import gevent

    if n == 3:
        raise gevent.GreenletExit
    return n


def dies_napping_at_7(n: int) -> int:
    time.sleep(0.01)
    if n == 7:
        os._exit(3)
    return n


def yields_naps(n: int) -> Any:
    for part in range(n):
        time.sleep(0.001)
        yield part


def naps_with_its_own(nap_s: float, connection: Any) -> int:
    """How many use this connection now."""
    connection.users = getattr(connection, "users", 0) + 1
    now: int = connection.users
    time.sleep(nap_s)
    connection.users -= 1
    return now


# -- what does not yield --------------------------------------------------------------------------------------


def computes(cpu_s: float) -> float:
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        pass
    return cpu_s


def imports_slowly(item: tuple[int, str]) -> int:
    """The first call imports a module that takes 0.5 s."""
    n, folder = item
    sys.path.insert(0, folder)
    importlib.import_module("slow_to_import")
    time.sleep(0.01)
    return n


def waits_in_c(nap_s: float) -> float:
    """As a client library in C: it waits for its own socket, and gevent does not see it."""
    from gevent import monkey

    monkey.get_original("select", "select")([], [], [], nap_s)
    return nap_s


def pid_or_hang(item: tuple[float, int]) -> int:
    nap_s, hangs = item
    (waits_in_c if hangs else naps)(nap_s)
    return os.getpid()


def spans_in_c_if_long(nap_s: float) -> Span:
    started = time.perf_counter()
    (waits_in_c if nap_s > 1 else naps)(nap_s)
    return os.getpid(), started, time.perf_counter()


def waits_in_c_at_0(item: tuple[int, float]) -> int:
    n, nap_s = item
    (waits_in_c if n == 0 else naps)(nap_s if n == 0 else 0.05)
    return n


# -- clients --------------------------------------------------------------------------------------------------


def _span(started: float) -> Span:
    return os.getpid(), started, time.perf_counter()


def asks_psycopg2(_: int) -> Span:
    import psycopg2

    connection = psycopg2.connect(**POSTGRES)
    try:
        started = time.perf_counter()
        connection.cursor().execute(f"select pg_sleep({NAP_S})")
        return _span(started)
    finally:
        connection.close()


def waits_by_callback(_: int) -> bool:
    from psycopg2.extensions import get_wait_callback

    return get_wait_callback() is not None


def connect_psycopg2() -> Any:
    import psycopg2

    return psycopg2.connect(**POSTGRES)


def asks_its_connection(item: float, connection: Any) -> tuple[int, int]:
    """The process, and the one of PostgreSQL that serves this connection."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(%s)", [item])
    return os.getpid(), connection.get_backend_pid()


def asks_psycopg(_: int) -> Span:
    import psycopg

    with psycopg.connect(host="127.0.0.1", user=POSTGRES["user"], dbname="test") as connection:
        started = time.perf_counter()
        connection.execute(f"select pg_sleep({NAP_S})")
        return _span(started)


def asks_pg8000(_: int) -> Span:
    import pg8000.native

    connection = pg8000.native.Connection(**POSTGRES)
    try:
        started = time.perf_counter()
        connection.run(f"select pg_sleep({NAP_S})")
        return _span(started)
    finally:
        connection.close()


def open_redis() -> Any:
    import redis

    return redis.Redis(host="127.0.0.1", port=6379)


def pops_redis(n: int, client: Any) -> Span:
    """One client for all greenlets of a process: its pool gives each a connection."""
    started = time.perf_counter()
    assert client.blpop([f"overlapped-test-{os.getpid()}-{n}"], timeout=NAP_S) is None
    return _span(started)


def gets_with_requests(url: str) -> Span:
    import requests

    started = time.perf_counter()
    assert requests.get(url, timeout=10).status_code == 200
    return _span(started)


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0
