"""Rule 19: resources are opened when a run starts, handed over by name, and closed after the last call, LIFO."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import Any

import pytest

from overlapped import UsageError
from overlapped.testing import virtual
from tests.rules.kit import Pulled, flow, outcome, same


class Log:
    """Resources of every kind, and what happened to them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: list[int] = []

    def add(self, what: str) -> None:
        self.events.append(what)
        self.threads.append(threading.get_ident())

    def make(self, kind: str, name: str = "it") -> Any:
        """A factory of a resource of some kind."""
        log = self

        class Closing:
            def __init__(self):
                log.add(f"open {name}")

            def close(self):
                log.add(f"close {name}")

        class AsyncClosing(Closing):
            async def aclose(self):
                await asyncio.sleep(0)
                log.add(f"close {name}")

            close: Any = None

        class AsyncClose(Closing):
            async def close(self):
                await asyncio.sleep(0)
                log.add(f"close {name}")

        @contextlib.contextmanager
        def context():
            log.add(f"open {name}")
            yield name
            log.add(f"close {name}")

        @contextlib.asynccontextmanager
        async def acontext():
            await asyncio.sleep(0)
            log.add(f"open {name}")
            yield name
            await asyncio.sleep(0)
            log.add(f"close {name}")

        async def coroutine():
            await asyncio.sleep(0)
            return Closing()

        return {
            "close": Closing,
            "aclose": AsyncClosing,
            "async close": AsyncClose,
            "context manager": context,
            "async context manager": acontext,
            "coroutine": coroutine,
        }[kind]


KINDS = ["close", "aclose", "async close", "context manager", "async context manager", "coroutine"]


def use(n, it):
    assert it is not None
    return n


# -- life -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_resource_is_opened_and_closed_once_a_run(kind, lane, way):
    log = Log()
    calls: list[Any] = []

    async def ause(n, it):
        calls.append(it)
        return n

    def puse(n, it):
        calls.append(it)
        return n

    chain = flow(range(10)).map(ause if lane == "coroutine" else puse, on=lane, concurrency=3)
    chain = chain.using(it=log.make(kind))
    for _ in range(2):
        calls.clear()
        log.events.clear()
        assert outcome(chain, way) == (list(range(10)), None)
        assert log.events == ["open it", "close it"]
        assert len({id(it) for it in calls}) == 1


def test_a_plain_value_is_handed_over_and_not_closed(way):
    chain = flow([1]).map(lambda n, base: n + base).using(base=lambda: 41)
    assert outcome(chain, way) == ([42], None)


def test_resources_are_closed_after_the_last_call_last_opened_first(way):
    log = Log()

    def fn(n, first, second):
        log.add("call")
        return n

    chain = flow([1]).map(fn).using(first=log.make("close", "first"), second=log.make("aclose", "second"))
    outcome(chain.using(third=log.make("context manager", "third")), way)
    assert log.events == [
        "open first",
        "open second",
        "open third",
        "call",
        "close third",
        "close second",
        "close first",
    ]


@virtual
async def test_a_resource_is_closed_only_when_cancelled_calls_have_ended():
    log = Log()

    async def fn(n, it):
        try:
            await asyncio.sleep(1000 if n else 1)
        finally:
            await asyncio.sleep(2)
            log.add(f"call {n} ended")
        return n

    async with flow(range(3)).map(fn, concurrency=3).using(it=log.make("close")).open() as items:
        assert await anext(items) == 0
    assert log.events[-1] == "close it"
    assert {"call 0 ended", "call 1 ended", "call 2 ended"} <= set(log.events)


@pytest.mark.parametrize("ending", ["break", "failure", "source failure", "take"])
def test_resources_are_closed_however_the_run_ends(ending, way):
    log = Log()
    pulled = Pulled(fails_at=2 if ending == "source failure" else None, total=100)

    def fn(n, it):
        if ending == "failure" and n == 2:
            raise ValueError(n)
        return n

    chain = flow(pulled.of("generator")).map(fn, concurrency=2).using(it=log.make("close"))
    if ending == "take":
        chain = chain.take(2)
    if ending == "break" and way == "for":
        with chain.open() as items:
            next(items)
    elif ending == "break":

        async def main():
            async with chain.open() as aitems:
                await anext(aitems)

        asyncio.run(main())
    else:
        outcome(chain, way)
    assert log.events == ["open it", "close it"]


def test_a_failing_open_ends_the_run_before_the_source_is_pulled(source, way):
    log = Log()
    pulled = Pulled(total=10)

    def broken():
        raise OSError("no connection")

    chain = flow(pulled.of(source)).map(use)
    for mode in ("raise", "keep"):
        values, error = outcome(chain.using(first=log.make("close"), it=broken), way, on_failure=mode)
        assert values == []
        assert repr(error) == "OSError('no connection')"
    assert (pulled.began, pulled.count) == (0, 0)
    assert log.events == ["open it", "close it"] * 2  # the one that was open is closed
    assert outcome(chain.using(it=log.make("close")), way) == (list(range(10)), None)  # so it can run still


@pytest.mark.parametrize("kind", ["close", "aclose", "context manager", "async context manager"])
def test_an_error_while_closing_is_raised_at_the_end(kind, way):
    class Bad:
        def close(self):
            raise OSError("close")

        async def aclose(self):
            raise OSError("close")

        def __exit__(self, *_):
            raise OSError("close")

        async def __aexit__(self, *_):
            raise OSError("close")

        def __enter__(self):
            return 1

        async def __aenter__(self):
            return 1

    hidden = {"close": "close", "aclose": "aclose", "context manager": "__enter__ __exit__"}
    wanted = hidden.get(kind, "__aenter__ __aexit__").split()
    resource = type("Bad", (), {name: getattr(Bad, name) for name in wanted})
    values, error = outcome(flow([1]).map(use).using(it=resource), way)
    assert values == [1]
    assert isinstance(error, OSError)


def test_one_failing_close_does_not_keep_others_open(way):
    log = Log()

    class Bad:
        def close(self):
            raise OSError("close")

    outcome(flow([1]).map(use).using(first=log.make("close"), it=Bad), way)
    assert log.events == ["open it", "close it"]


@pytest.mark.parametrize("per", ["run", "worker"])
def test_a_connection_that_leaving_has_closed_may_refuse_to_be_closed_again(per, way):
    """As pg8000 does, and PEP 249 wants it; any other error of closing is told."""

    class InterfaceError(Exception):
        pass

    class Connection:
        is_open = True

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            self.close()

        def close(self):
            if not self.is_open:
                raise InterfaceError("connection is closed")
            self.is_open = False

    def use(n, it):
        assert it.is_open
        return n

    values, error = outcome(flow(range(5)).map(use, on="thread").using(per=per, it=Connection), way)
    assert (values, error) == ([0, 1, 2, 3, 4], None)


@pytest.mark.parametrize("kind", ["run", "run, async", "worker"])
def test_what_a_context_manager_gives_is_closed_by_the_manager_alone(kind, way):
    """A pool takes its connection back; closed once more, the pool would hold a dead one."""

    class Connection:
        closed = 0

        def close(self):
            self.closed += 1

    connection = Connection()
    events = []

    @contextlib.contextmanager
    def connect():
        yield connection
        events.append("given back")

    @contextlib.asynccontextmanager
    async def aconnect():
        with connect() as given:
            yield given

    chain = flow(range(3)).map(use, on="thread", concurrency=1)
    chain = chain.using(per=kind.partition(",")[0], it=aconnect if "async" in kind else connect)
    assert outcome(chain, way) == ([0, 1, 2], None)
    assert (events, connection.closed) == (["given back"], 0)


@pytest.mark.parametrize("per", ["run", "worker"])
@pytest.mark.parametrize("own", ["", "close", "__enter__ __exit__"])
def test_a_resource_that_answers_every_name_is_asked_for_what_its_type_has_alone(own, per, way):
    """As xmlrpc.client.ServerProxy does, where each such call is a request to the server."""
    asked: list[str] = []

    class Proxy:
        def __getattr__(self, name):
            return lambda *args: asked.append(f"get {name}")

    def method(name):
        def call(self, *exc_info):
            asked.append(name)
            return self

        return call

    proxy = type("Proxy", (Proxy,), {name: method(name) for name in own.split()})
    chain = flow(range(3)).map(use, on="thread", concurrency=1).using(per=per, it=proxy)
    assert outcome(chain, way) == ([0, 1, 2], None)
    assert asked == own.split()


@pytest.mark.parametrize("per", ["run", "worker"])
def test_a_resource_that_hands_on_what_it_is_asked_is_closed(per, way):
    """Instrumented connections do so (wrapt, OpenTelemetry)."""
    log = Log()

    class Wrapped:
        def __init__(self):
            self.inner = log.make("close")()

        def __getattr__(self, name):
            return getattr(self.inner, name)

    assert outcome(flow([1]).map(use, on="thread").using(per=per, it=Wrapped), way) == ([1], None)
    assert log.events == ["open it", "close it"]


@pytest.mark.parametrize("per", ["run", "worker"])
def test_several_errors_while_closing_are_all_told(per, way):
    def bad(name):
        class Bad:
            def close(self):
                raise OSError(name)

        return Bad

    def fn(n, first, second):
        return n

    chain = flow([1]).map(fn, on="thread", concurrency=1).using(per=per, first=bad("first"), second=bad("second"))
    values, error = outcome(chain, way)
    assert values == [1]
    assert sorted(str(e) for e in error.exceptions) == ["first", "second"]
    assert len(error.report.cleanup_errors) == 2


def test_a_session_is_opened_on_the_loop_that_uses_it(way):
    loops: set[Any] = set()

    class Session:
        async def __aenter__(self):
            loops.add(asyncio.get_running_loop())
            return self

        async def __aexit__(self, *_):
            loops.add(asyncio.get_running_loop())

    async def fn(n, session):
        loops.add(asyncio.get_running_loop())
        return n

    assert outcome(flow(range(3)).map(fn).using(session=Session), way) == ([0, 1, 2], None)
    assert len(loops) == 1


# -- per worker -----------------------------------------------------------------------------------------------


def test_per_worker_opens_one_for_each_thread_and_closes_it_there():
    log = Log()
    made: list[Any] = []
    together = threading.Barrier(3)

    class Connection:
        def __init__(self):
            self.thread = threading.get_ident()
            made.append(self)
            log.add("open")

        def close(self):
            assert threading.get_ident() == self.thread
            log.add("close")

    def fn(n, connection):
        assert threading.get_ident() == connection.thread
        if n < 3:
            together.wait(5)
        return n

    chain = flow(range(30)).map(fn, concurrency=3).using(per="worker", connection=Connection)
    assert chain.collect() == list(range(30))
    assert len(made) == len({c.thread for c in made}) == 3
    assert sorted(log.events) == ["close"] * 3 + ["open"] * 3


def test_a_sqlite_connection_per_worker_works_in_threads(tmp_path, way):
    path = tmp_path / "db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (40)")

    def fn(n, db):
        return n + db.execute("SELECT n FROM t").fetchone()[0]

    chain = flow(range(50)).map(fn, concurrency=4).using(per="worker", db=lambda: sqlite3.connect(path))
    assert outcome(chain, way) == ([n + 40 for n in range(50)], None)


def test_per_worker_resources_are_closed_last_opened_first():
    log = Log()

    def fn(n, first, second):
        return n

    flow([1]).map(fn, concurrency=1).using(
        per="worker", first=log.make("close", "first"), second=log.make("context manager", "second")
    ).run()
    assert log.events == ["open first", "open second", "close second", "close first"]


def test_a_failing_open_per_worker_ends_the_run(way):
    def broken():
        raise OSError("no connection")

    _, error = outcome(flow(range(10)).map(use, concurrency=2).using(per="worker", it=broken), way)
    assert repr(error) == "OSError('no connection')"


def test_short_calls_with_a_resource_per_worker_stay_in_their_threads():
    """Going inline would take the resource to another thread."""

    class Connection:
        def __init__(self):
            self.thread = threading.get_ident()

    def fn(n, connection):
        assert threading.get_ident() == connection.thread
        return n

    chain = flow(range(2000)).map(fn, concurrency=2).using(per="worker", connection=Connection)
    assert chain.collect() == list(range(2000))


# -- names --------------------------------------------------------------------------------------------------


def test_names_bind_from_the_second_parameter_on(way):
    def fn(session, other):
        return session, other

    assert outcome(flow(["item"]).map(fn).using(session=lambda: "unused", other=lambda: "resource"), way) == (
        [("item", "resource")],
        None,
    )


def test_keyword_only_parameters_and_defaults(way):
    def fn(n, *, base, scale=10):
        return n * scale + base

    assert outcome(flow([1]).map(fn).using(base=lambda: 5), way) == ([15], None)
    assert outcome(flow([1]).map(fn).using(base=lambda: 5, scale=lambda: 100), way) == ([105], None)


@pytest.mark.parametrize("verb", ["map", "filter", "tap", "flat_map"])
def test_every_verb_gets_resources(verb, lane, way):
    async def afn(n, it):
        return [it]

    def pfn(n, it):
        return [it]

    chain = getattr(flow([1]), verb)(afn if lane == "coroutine" else pfn, on=lane).using(it=lambda: 7)
    expected = {"map": [7], "filter": 1, "tap": 1, "flat_map": 7}[verb]
    assert outcome(chain, way) == ([expected], None)


def test_using_may_stand_before_or_behind_the_stage(way):
    for chain in (flow([1]).using(it=lambda: 1).map(use), flow([1]).map(use).using(it=lambda: 1).map(same)):
        assert outcome(chain, way) == ([1], None)


def test_using_changes_no_earlier_flow():
    first = flow([1]).map(use)
    first.using(it=lambda: 1)
    with pytest.raises(UsageError):
        first.collect()


@pytest.mark.parametrize("call", ["collect", "run", "open", "__iter__", "__aiter__"])
def test_a_missing_resource_is_a_usage_error_before_anything_starts(call):
    pulled = Pulled(total=1)

    def fetch(n, session, *, timeout):
        return n

    chain = flow(pulled.of("generator")).map(fetch).using(session=lambda: 1)
    with pytest.raises(UsageError, match=r"fetch.*timeout.*\.using\(timeout=\.\.\.\)"):
        getattr(chain, call)()
    assert pulled.began == 0


def test_a_positional_only_parameter_can_never_be_filled():
    def fn(n, it, /):
        return n

    with pytest.raises(UsageError):
        flow([1]).map(fn).using(it=lambda: 1).collect()


def test_a_bad_use_is_refused_when_written():
    with pytest.raises(UsageError, match="a function that makes it"):
        flow([1]).using(session=object())
    with pytest.raises(UsageError, match="already"):
        flow([1]).using(it=lambda: 1).using(it=lambda: 2)
    with pytest.raises(UsageError, match="per"):
        flow([1]).using(per="thread", it=lambda: 1)


def test_a_resource_that_nobody_asks_for_is_still_opened_and_closed(way):
    log = Log()
    assert outcome(flow([1]).map(same).using(it=log.make("close")), way) == ([1], None)
    assert log.events in (["open it", "close it"], [])
