"""`pipeline`: every row is stored once at every size, a size is found without one, and a service may be missing."""

from __future__ import annotations

import json
import os
import socket
import sqlite3

import pytest

from overlapped.compare.base import About, NotRunError
from overlapped.compare.catalog import Model
from overlapped.compare.runner import run_once
from overlapped.compare.server import running_server
from overlapped.compare.workloads import pipeline, storing
from overlapped.compare.workloads.pipeline import SERVICES, Wanted
from tests.test_cli import overlapped

POSTGRES = "host=127.0.0.1 dbname=test"
REDIS = "redis://127.0.0.1:6379"


@pytest.fixture(scope="module")
def schema():
    """Where the tests make tables in PostgreSQL, if there is one: tests of another Python may run beside these."""
    import psycopg

    name = f"overlapped_tests_{os.getpid()}"
    try:
        connection = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.Error:
        yield name
        return
    with connection:
        connection.execute(f"create schema {name}".encode())
        yield name
        connection.execute(f"drop schema {name} cascade".encode())


@pytest.fixture(scope="module")
def port():
    with running_server() as port:
        yield port


@pytest.fixture
def places(port, tmp_path, schema):
    return {
        "SQLite": str(tmp_path / "rows.db"),
        "PostgreSQL": f"{POSTGRES} options=-csearch_path={schema}",
        "Redis": REDIS,
        "HTTP": f"http://127.0.0.1:{port}/save",
    }


def store(name, at, size, most=1_000, lasts_s=60.0):
    function, imports = SERVICES[name]
    model = Model(name, About("synchronous, blocking", "", ""), storing)
    work = {"size": size, "lasts_s": lasts_s, "most": most, "at": at}
    order = {"kind": "Storing", "function": function.__name__, "imports": imports, "work": work}
    return run_once(model, order, 50)


@pytest.fixture
def nobody():
    """The port of a service that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        return there.getsockname()[1]


def stored(name, places, size, **more):
    told = store(name, places[name], size, **more)
    if told["status"] == "not run":
        assert name in {"PostgreSQL", "Redis"}, told
        pytest.skip(f"{name}: {told['reason']}")
    assert told["status"] == "ok", told
    return told


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, None])
@pytest.mark.parametrize("name", SERVICES)
def test_every_row_is_stored_once_in_batches_of_the_size_or_of_the_one_that_is_found(name, size, places):
    told = stored(name, places, size)
    calls = len(told["began_s"])
    assert told["figures"]["rows"] == 1_000
    assert told["figures"]["rows_per_s"] > 0
    assert told["figures"]["whole_per_s"] > 0
    assert 0 < told["figures"]["call_s"] < told["seconds"]
    assert all(
        ended <= began for ended, began in zip(told["ended_s"], told["began_s"][1:], strict=False)
    )  # one at a time
    if size:
        assert (calls, told["found"]) == (143, None)
    else:
        assert 1 <= told["found"] <= 10_000
        assert calls < 1_000
    if name == "SQLite":
        with sqlite3.connect(places[name]) as database:
            assert database.execute("select count(distinct number), count(*) from rows").fetchone() == (1_000, 1_000)
        database.close()


def here(name, at, monkeypatch):
    """Store in this process, with names of its own: other tests may run beside this one."""
    monkeypatch.setattr(storing, "KEY", f"overlapped:tests:{os.getpid()}:")
    work = storing.Storing(10, 60.0, 100, at)
    work.start()
    try:
        SERVICES[name][0](work)
    except NotRunError as reason:
        pytest.skip(f"{name}: {reason}")
    assert sum(work.rows) == 100


def test_no_table_is_left_in_postgresql(places, schema, monkeypatch):
    import psycopg

    here("PostgreSQL", places["PostgreSQL"], monkeypatch)
    with psycopg.connect(POSTGRES) as connection:
        left = connection.execute("select count(*) from pg_tables where schemaname = %s", [schema])
        assert left.fetchone() == (0,)


def test_no_key_is_left_in_redis(monkeypatch):
    from redis import Redis

    here("Redis", REDIS, monkeypatch)
    with Redis.from_url(REDIS) as client:
        assert list(client.scan_iter(f"{storing.KEY}*")) == []


def test_it_ends_when_the_time_is_over(places):
    told = store("SQLite", places["SQLite"], 1, most=10**9, lasts_s=0.05)
    assert 0.05 <= told["seconds"] < 5
    assert told["figures"]["rows"] >= 1


def test_a_save_that_the_server_refuses_is_an_error(port):
    told = store("HTTP", f"http://127.0.0.1:{port}/nothing", 5)
    assert told == {"status": "failed", "reason": "the server answered 404"}


@pytest.mark.slow
def test_a_service_that_is_not_there_is_a_row_with_the_reason(nobody):
    wanted = Wanted(
        postgres=f"host=127.0.0.1 port={nobody}",
        redis=f"redis://127.0.0.1:{nobody}",
        rows=20,
        lasts_s=0.1,
        delay_s=0.001,
        sizes=(1, 10),
    )
    made = pipeline.compare(wanted)
    assert [(curve.name, len(curve.spots)) for curve in made.curves] == [
        ("SQLite", 2),
        ("PostgreSQL", 0),
        ("Redis", 0),
        ("HTTP", 2),
    ]
    assert [curve.found is None for curve in made.curves] == [False, True, True, False]
    lines = made.text().splitlines()
    assert any(line.startswith("PostgreSQL  not run: ") and "refused" in line for line in lines)
    assert any(line.startswith("Redis  not run: ") for line in lines)


@pytest.mark.slow
def test_a_service_that_takes_no_rows_is_a_row_with_the_reason(tmp_path):
    wanted = Wanted(postgres=f"{POSTGRES} options=-csearch_path=there_is_none", redis="")
    assert pipeline._missing("PostgreSQL", wanted, wanted.postgres) != ""
    assert "unable to open database file" in pipeline._missing("SQLite", wanted, str(tmp_path / "no" / "rows.db"))


@pytest.mark.slow
def test_a_service_that_never_answers_is_a_row_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        told = store("Redis", at, 1, most=1)
    assert told == {"status": "not run", "reason": "no answer within 3 s"}


def test_a_missing_package_is_a_reason_with_the_line_to_install(monkeypatch):
    monkeypatch.setitem(SERVICES, "Redis", (storing.redis, ("no_such_package",)))
    wanted = Wanted(postgres="", redis="", services=("Redis",))
    assert (
        pipeline._missing("Redis", wanted, "") == "no_such_package is not installed: pip install 'overlapped[compare]'"
    )


@pytest.mark.slow
def test_data_holds_every_service_and_every_size(monkeypatch, tmp_path, nobody):
    out = tmp_path / "pipeline.json"
    missing = ("--postgres", f"host=127.0.0.1 port={nobody}", "--redis", f"redis://127.0.0.1:{nobody}")
    done = overlapped(
        *("compare", "--workload", "pipeline", "--requests", "200", "--delay", "0.001", *missing, "-o", str(out)),
        *("--json", "-q"),
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads(out.read_text())
    assert [(curve["name"], curve["status"]) for curve in told["curves"]] == [
        ("SQLite", "ok"),
        ("PostgreSQL", "not run"),
        ("Redis", "not run"),
        ("HTTP", "ok"),
    ]
    for curve in told["curves"][::3]:
        assert [spot["setting"] for spot in curve["spots"]] == list(pipeline.SIZES)
        assert curve["found"]["setting"] >= 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-m", "threads"], "pipeline compares sizes of batches, not models: leave out -m"),
        (["--concurrency", "5"], "pipeline has one call in flight, so that nothing but the size differs"),
    ],
)
def test_what_does_not_go_with_it_is_refused(more, said):
    done = overlapped("compare", "--workload", "pipeline", *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
