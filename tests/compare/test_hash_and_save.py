"""`hash-and-save`: every way makes the same hashes, the server has seen each of them, and the bound is computed."""

from __future__ import annotations

import json

import pytest

from overlapped.compare.catalog import Model
from overlapped.compare.runner import run_once
from overlapped.compare.server import running_server
from overlapped.compare.workloads import saving
from overlapped.compare.workloads.hash_and_save import _IMPORTS, WAYS, Wanted, _row
from tests.test_cli import overlapped

COUNT = 7


@pytest.fixture(scope="module")
def port():
    with running_server() as port:
        yield port


def run(name, port, path):
    function, about = WAYS[name]
    work = {"count": COUNT, "cost": 4, "port": port, "path": path}
    order = {"kind": "Saving", "function": function.__name__, "imports": _IMPORTS, "work": work}
    return run_once(Model(name, about, saving), order, 50)


@pytest.mark.parametrize("name", WAYS)
def test_every_way_makes_the_same_hashes_in_their_places(name, port):
    told = run(name, port, "/save?delay=0.01")
    assert told["status"] == "ok", told
    assert told["digests"] == run("no I/O", port, "/save")["digests"]
    assert len(set(told["digests"])) == COUNT


@pytest.mark.parametrize("name", [name for name in WAYS if name != "no I/O"])
def test_a_save_that_the_server_refuses_is_an_error(name, port):
    told = run(name, port, "/nothing")
    assert told["status"] == "failed"
    assert "the server answered 404" in told["reason"]


def test_the_comparison_tells_times_the_bound_and_what_was_found():
    arguments = ("compare", "--workload", "hash-and-save", "--requests", "8", "--delay", "0.01", "--repeat", "1")
    done = overlapped(*arguments, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = json.loads(done.stdout)
    assert [row["name"] for row in told["models"]] == list(WAYS)
    bare_s = told["models"][0]["seconds"][0]
    assert 0.01 < told["bound_s"] <= bare_s + 0.01
    assert any(note.startswith("times no I/O: serial ") for note in told["notes"])
    assert any("overlapped was given no number: it hashed" in note for note in told["notes"])


def test_the_serial_way_is_measured_on_a_part():
    assert [_row("serial", Wanted(items, delay_s)).count for items, delay_s in [(200, 0.1), (200, 0.0), (5, 0.1)]] == [
        20,
        200,
        5,
    ]
    assert _row("serial", Wanted(200, 0.1, whole=True)).count == 200
    assert _row("batches", Wanted(200, 0.1)).count == 200


def test_models_are_not_chosen_among_ways():
    done = overlapped("compare", "--workload", "hash-and-save", "-m", "threads")
    assert (done.returncode, done.stdout) == (2, "")
    assert "hash-and-save compares ways of one job, not models" in done.stderr
