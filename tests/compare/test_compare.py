"""`overlapped compare`: the rows, the JSON, what is refused, and what is held against each other."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from xml.etree import ElementTree as ET

import pytest

from overlapped.compare import runner
from overlapped.compare.base import ComparisonError
from overlapped.compare.catalog import all_models, chosen_models
from overlapped.compare.comparison import Comparison
from overlapped.compare.runner import Once, Row, check_same, run_models, run_once
from overlapped.compare.server import running_server
from overlapped.compare.table import table
from overlapped.compare.workloads import crawl, url
from tests.test_cli import ended, overlapped, started, wait_for

QUICK = ["compare", "--requests", "40", "--delay", "0.01", "--concurrency", "10", "--repeat", "2"]
PICKED = ["-m", "blocking", "-m", "polling", "-m", "overlapped"]


@pytest.fixture(scope="module")
def server_port():
    with running_server() as port:
        yield port


def model(name):
    return chosen_models([name], "crawl")[0]


def once(seconds=0.5, *, digests=("a", "b"), vain=0, found=None):
    return Once(seconds, 0.1, 4, 2, vain, found, 2**20, list(digests), [0.0, 0.1], [0.3, 0.4])


def test_json_is_one_object_with_every_measure_of_every_model():
    done = overlapped(*QUICK, *PICKED, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = json.loads(done.stdout)
    assert told["workload"] == "crawl"
    assert told["bound_s"] == pytest.approx(0.04)
    assert [row["name"] for row in told["models"]] == ["blocking", "polling", "overlapped"]
    for row in told["models"]:
        assert (row["status"], row["reason"], row["requests"]) == ("ok", None, 40)
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert row["requests_per_s"] == pytest.approx(40 / (sum(row["seconds"]) / 2))
        assert row["cpu_s"] > 0
        assert row["involuntary_switches_per_request"] >= 0
        assert row["peak_rss_bytes"] > 5e6
        assert row["lines"] > 5
    alone, asked, ours = told["models"]
    assert min(alone["seconds"]) >= 40 * 0.01
    assert alone["concurrency"] == 1
    assert alone["voluntary_switches_per_request"] >= 0.9  # it is put aside for every answer
    assert asked["concurrency"] <= 10
    assert asked["vain_asks_per_request"] > alone["vain_asks_per_request"] == 0
    assert ours["concurrency"] >= 1


def test_without_progress_no_run_is_announced_and_the_table_still_comes():
    done = overlapped(*QUICK, "-m", "polling", "--progress", "none")
    assert (done.returncode, done.stderr) == (0, "")
    assert "polling" in done.stdout


def test_the_table_names_every_model_and_says_what_was_measured_on_a_part():
    done = overlapped(
        *("compare", "--requests", "40", "--delay", "0.2", "--repeat", "1", "-m", "blocking", "-m", "polling")
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["overlapped: blocking", "overlapped: polling"]
    assert "blocking was measured on 10 of 40" in done.stdout
    assert "(estimate: 4 times as many)" in done.stdout
    names = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert names.index("polling") < names.index("blocking")  # the fastest first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--workload", "files", "-m", "aiohttp"],
            "the model 'aiohttp' does no files; those that do: blocking, polling",
        ),
        (
            ["--workload", "files", "http://localhost/"],
            "a page of your own goes with the workload crawl, not with files",
        ),
        (["--workload", "nothing"], "'nothing' is not one of"),
        (["-m", "blokcing"], "there is no model 'blokcing'; did you mean 'blocking'? there are blocking, polling, "),
        (["--requests", "0"], "0 is not in the range x>=1"),
        (["--concurrency", "0"], "0 is not in the range 1<=x<=10000"),
        (["--repeat", "0"], "0 is not in the range"),
        (["--delay", "-1"], "-1.0 is not in the range"),
        (["--delay", "nan"], "nan is not in the range 0<=x<=60"),
        (["--requests", "1" + "0" * 20], "at most 1,000,000 fit into memory"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(arguments, said):
    done = overlapped("compare", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_it_with_one_line_and_one_object(number, code, told):
    with started("compare", "--json", "-m", "blocking", "--delay", "5") as process:
        wait_for(process, "overlapped: blocking")
        process.send_signal(number)
        status, out, err = ended(process)
    answer = json.loads(out)
    assert status == answer["exit_code"] == code
    assert answer["error"] == f"{told} before the comparison was done"
    assert err == f"overlapped: {answer['error']}\n"


# Files


def test_files_are_compared_cold_and_warm():
    done = overlapped("compare", "--workload", "files", "--requests", "50", "--repeat", "1", *PICKED, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = json.loads(done.stdout)
    assert told["workload"] == "files"
    assert [part["workload"] for part in told["comparisons"]] == ["files, cold", "files, warm"]
    for part in told["comparisons"]:
        assert [(row["name"], row["status"], row["requests"]) for row in part["models"]] == [
            (name, "ok", 50) for name in ("blocking", "polling", "overlapped")
        ]


def test_files_are_shown_as_two_tables_and_two_pictures(tmp_path):
    out = tmp_path / "files.svg"
    arguments = (
        "compare",
        "--workload",
        "files",
        "--requests",
        "50",
        "--repeat",
        "1",
        "-m",
        "blocking",
        "-o",
        str(out),
    )
    done = overlapped(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["overlapped: blocking, cold", "overlapped: blocking, warm"]
    assert done.stdout.startswith("files, cold: 50 files of 16 KiB")
    assert "\nfiles, warm: " in done.stdout
    text = out.read_text()
    assert text.count("under every I/O model</text>") == 2
    ET.fromstring(text)  # noqa: S314 - our own


# A page of the user's


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://localhost/"], "'ftp://localhost/' is no address of a page; write http://host/path"),
        (["localhost:8000"], "is no address of a page"),
        (["http://a b/"], "is no address of a page"),
        (["http://[::1/"], "is no address of a page"),
        (["http://localhost:x/"], "is no address of a page"),
        (["http://me:secret@localhost/"], "the address of localhost holds a user's name"),
        (["http://192.0.2.1/"], "this sends up to 3,603 requests to 192.0.2.1; --yes says that you may do that"),
    ],
)
def test_a_page_that_cannot_or_may_not_be_fetched_is_refused_before_anything_is_sent(arguments, said):
    done = overlapped("compare", "-q", *arguments)
    assert "secret" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_is_not_there_is_said_to_be_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    done = overlapped("compare", f"http://127.0.0.1:{port}/", "--json")
    assert done.returncode == 2
    assert "cannot be fetched: ConnectionRefusedError" in json.loads(done.stdout)["error"]


def test_few_requests_to_another_machine_are_sent_without_asking(monkeypatch):
    from overlapped.cli import compare
    from overlapped.cli.say import Problem

    with open(os.devnull) as no_terminal:
        monkeypatch.setattr("sys.stdin", no_terminal)
        compare._ask("http://192.0.2.1/", 100, yes=False)
        compare._ask("http://192.0.2.1/", 10_000, yes=True)
        compare._ask("http://localhost:8000/", 10_000, yes=False)
        compare._ask("http://[::1]/", 10_000, yes=False)
        with pytest.raises(Problem, match="up to 101 requests to 192.0.2.1"):
            compare._ask("http://192.0.2.1/", 101, yes=False)


def test_a_page_of_the_users_is_compared(server_port):
    url = f"http://127.0.0.1:{server_port}/page/3?delay=0.01"
    done = overlapped("compare", url, "--requests", "20", "--repeat", "1", *PICKED, "-q", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert url in told["subject"]
    assert told["bound_s"] is None
    assert told["delay_s"] >= 0.01
    assert [(row["status"], row["requests"]) for row in told["models"]] == [("ok", 20)] * 3
    assert not any("never the same" in note for note in told["notes"])


def test_a_page_that_is_no_page_is_said_to_be_none(server_port):
    done = overlapped("compare", f"http://127.0.0.1:{server_port}/page/3?status=503", "-q")
    assert done.returncode == 2
    assert "answered 503 for /page/3?status=503; it must be 200" in done.stderr


def test_models_without_tls_say_so(monkeypatch):
    monkeypatch.setattr(url, "probe", lambda address: url.Probe([0.01], ["a", "b"]))
    asked = []

    def not_run(model, *_):
        asked.append(model.name)
        return {"status": "not run", "reason": "-"}

    monkeypatch.setattr(runner, "run_once", not_run)
    made = url.compare(chosen_models(["polling", "threads"], "crawl"), "https://192.0.2.1/", crawl.Wanted(repeat=1))
    assert asked == ["threads"]
    assert made.rows[0].reason == "this lesson speaks plain HTTP, no TLS"
    assert any("never the same" in note for note in made.notes)


# What is held against each other


def test_a_model_that_brings_other_bytes_fails_the_comparison():
    rows = [Row(model("blocking"), 2, 1, [once()]), Row(model("threads"), 2, 1, [once(), once(digests=("a", "c"))])]
    with pytest.raises(ComparisonError, match="threads brought other bytes than the server sent: 1 of 2, first"):
        check_same(rows, ["a", "b"])
    with pytest.raises(ComparisonError, match="threads brought other bytes than blocking"):
        check_same(rows, None)
    check_same(rows[:1], ["a", "b"])


def test_a_model_that_hangs_is_killed_and_named():
    with pytest.raises(ComparisonError, match="blocking hangs"):
        run_once(model("blocking"), {}, 0.001)


def test_a_process_that_ends_without_a_word_fails_the_comparison():
    import dataclasses

    there = model("blocking")
    about = dataclasses.replace(there.about, first="import os; os._exit(3)")
    with pytest.raises(ComparisonError, match="blocking: its process ended with 3"):
        run_once(dataclasses.replace(there, about=about), {}, 30)


def test_a_missing_package_is_a_row_with_the_line_to_install(monkeypatch):
    import dataclasses

    there = model("aiohttp")
    about = dataclasses.replace(there.about, first="import no_such_package; no_such_package.patch()")
    told = run_once(dataclasses.replace(there, about=about), {}, 30)
    assert told == {
        "status": "not run",
        "reason": "no_such_package is not installed: pip install 'overlapped[compare]'",
    }


def without(monkeypatch, tmp_path, package):
    """In the processes that are started from now on, a package cannot be found."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import importlib.util, sys
sys.modules[{package!r}] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == {package!r} else found(name, *more)
""")
    paths = filter(None, [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def test_without_uvloop_all_but_its_own_model_run(monkeypatch, tmp_path):
    without(monkeypatch, tmp_path, "uvloop")
    done = overlapped(*QUICK, "-m", "uvloop", "-m", "overlapped", "-q", "--json")
    assert done.returncode == 0, done.stderr
    assert [(row["name"], row["status"], row["reason"]) for row in json.loads(done.stdout)["models"]] == [
        ("uvloop", "not run", "uvloop is not installed: pip install 'overlapped[compare]'"),
        ("overlapped", "ok", None),
    ]


def test_without_tornado_files_and_pages_of_the_users_are_compared_still(monkeypatch, tmp_path, server_port):
    without(monkeypatch, tmp_path, "tornado")
    done = overlapped(*QUICK)
    assert done.returncode == 2
    assert done.stderr == "overlapped: the server of the comparison needs tornado: pip install 'overlapped[compare]'\n"
    done = overlapped(
        *QUICK, f"http://127.0.0.1:{server_port}/page/1", "-m", "blocking", "-m", "tornado", "-q", "--json"
    )
    assert [row["status"] for row in json.loads(done.stdout)["models"]] == ["ok", "not run"]


def test_a_model_that_cannot_run_is_not_tried_again_and_stays_as_a_row(monkeypatch):
    asked = []

    def not_run(model, order, limit_s):
        asked.append(model.name)
        return {"status": "not run", "reason": "the kernel \x1b[31m forbids it"}

    monkeypatch.setattr(runner, "run_once", not_run)
    row = Row(model("completion"), 2, 9)
    run_models([row], lambda row: {}, repeat=3, limit_s=lambda row: 1, on_run=lambda what: None)
    assert asked == ["completion"]
    shown = table(Comparison("crawl", "two", "request", 2, 1, 0.1, 0.2, [row]))
    assert "completion  not run: the kernel \\x1b[31m forbids it" in shown
    told = row.to_dict()
    assert (told["status"], told["seconds"], told["cpu_s"]) == ("not run", [], None)


def test_the_measures_of_a_row_are_those_of_the_run_in_the_middle():
    row = Row(model("threads"), 2, 9, [once(3.0), once(1.0, vain=8), once(0.5)])
    assert row.median_s == 1.0
    assert row.estimate_s(6) == 3.0
    assert row.concurrency == 2
    assert row.to_dict()["vain_asks_per_request"] == 4
    assert Row(model("overlapped"), 2, 9, [once(found=64)]).concurrency == 64


def test_a_new_model_needs_nothing_but_its_file():
    from pathlib import Path

    from overlapped.compare import models

    files = {path.stem.rstrip("_") for path in Path(models.__file__).parent.glob("*.py")} - {"", "__init__"}
    assert {model.name for model in all_models()} == {name for name in files if not name.startswith("__")}


def test_blocking_is_measured_on_a_part_only_when_all_would_take_long():
    rows = [
        crawl._row(model("blocking"), crawl.Wanted(requests, delay_s)).count
        for requests, delay_s in [(400, 0.1), (400, 0.0), (15, 0.1), (400, 2.0)]
    ]
    assert rows == [20, 400, 15, 10]
    assert crawl._row(model("blocking"), crawl.Wanted(400, 0.1, whole=True)).count == 400
    assert crawl._row(model("threads"), crawl.Wanted(400, 0.1)).count == 400
