"""`--report`, `--trace` and `overlapped report` on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from overlapped.report import files
from overlapped.report.data import to_dict
from tests.test_report import make_record, make_stage

JOB = """
import asyncio
from overlapped import flow

async def fetch(number):
    await asyncio.sleep(0.001)
    if number % 10 == 3:
        raise ValueError(f"no {number}")
    return number

job = flow(range(40)).map(fetch)
empty = flow([]).map(fetch)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def overlapped(folder, *args):
    done = subprocess.run(
        [sys.executable, "-m", "overlapped", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_run_writes_its_report_and_trace_and_report_reads_it_back(folder):
    done = overlapped(folder, "run", "job.py:job", "--report", "run.html", "--trace", "run.json.gz")
    assert done.returncode == 3
    assert (folder / "run.json.gz").stat().st_size > 100
    shown = overlapped(folder, "report", "run.html")
    assert shown.returncode == 0
    assert "done     40 items in, 36 out" in shown.stdout
    assert "4 ValueError in fetch" in shown.stdout
    failed = overlapped(folder, "report", "run.html", "--failed")
    assert [json.loads(line)["item"] for line in failed.stdout.splitlines()] == ["3", "13", "23", "33"]
    data = json.loads(overlapped(folder, "report", "run.html", "--json").stdout)
    assert (data["schema"], data["items"], data["failed"]) == ("overlapped.run/1", 36, 4)
    again = overlapped(folder, "report", "run.html", "-o", "again.html", "--trace", "again.json")
    assert (again.returncode, again.stdout) == (0, "")
    assert files.read(str(folder / "again.html")).items == 36
    assert json.loads((folder / "again.json").read_text())["traceEvents"]


def test_a_job_that_goes_to_another_folder_leaves_its_report_in_this_one(folder):
    (folder / "away").mkdir()
    (folder / "job.py").write_text(f"import os\nos.chdir('away')\n{JOB}")
    overlapped(folder, "run", "-q", "job.py:job", "--report", "run.html", "--trace", "run.json")
    assert (folder / "run.html").exists()
    assert (folder / "run.json").exists()
    assert list((folder / "away").iterdir()) == []


def test_what_json_writes_is_a_report_too(folder):
    done = overlapped(folder, "run", "--json", "job.py:job")
    (folder / "run.json").write_text(done.stdout)
    assert "40 items in, 36 out" in overlapped(folder, "report", "run.json").stdout


def test_an_empty_run_has_a_report(folder):
    assert overlapped(folder, "run", "job.py:empty", "--report", "run.html").returncode == 0
    assert "0 items" in overlapped(folder, "report", "run.html", "--text").stdout


@pytest.mark.parametrize("more", [(), ("--json",), ("-o", "x.html"), ("--trace", "x.json")])
@pytest.mark.parametrize(
    ("field", "value"), [("elapsed_s", float("nan")), ("state", ["done"]), ("items", "7"), ("started_at", 1e300)]
)
def test_a_record_with_values_that_no_run_has_is_no_fault_of_ours(folder, field, value, more):
    data = to_dict(make_record()) | {field: value}
    (folder / "run.json").write_text(json.dumps(data))
    done = overlapped(folder, "report", "run.json", *more)
    assert "fault in overlapped" not in done.stderr
    told = "overlapped: run.json: " if done.returncode else ""  # some ways to show it do without the value
    assert (done.returncode, done.stderr[: len(told)]) == (2 if told else 0, told)


def test_what_json_writes_when_no_flow_ran_says_so(folder):
    done = overlapped(folder, "run", "--json", "nothing.py")
    (folder / "run.json").write_text("\ufeff" + done.stdout)
    shown = overlapped(folder, "report", "run.json")
    assert shown.returncode == 2
    assert shown.stderr.endswith("run.json: it tells of a command that ran no flow: nothing.py: no such file\n")


def test_what_the_encoding_of_stdout_does_not_know_is_escaped(folder, monkeypatch):
    (folder / "run.json").write_text(json.dumps(to_dict(make_record(stages=(make_stage(name="\u00fc\u2192"),)))))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = overlapped(folder, "report", "run.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xfc\\u2192" in done.stdout


def test_a_trace_does_not_take_the_place_of_the_record_that_it_is_made_of(folder):
    (folder / "run.json").write_text(json.dumps(to_dict(make_record())))
    done = overlapped(folder, "report", "run.json", "--trace", "./run.json")
    assert done.returncode == 2
    assert "the record would be lost" in done.stderr
    assert overlapped(folder, "report", "run.json").returncode == 0


def test_a_full_disk_is_told_with_the_file(folder):
    (folder / "run.json").write_text(json.dumps(to_dict(make_record())))
    (folder / "full.html").symlink_to("/dev/full")
    done = overlapped(folder, "report", "run.json", "-o", "full.html")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "overlapped: full.html: cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "job.py:job", "--report", "no/run.html"), "--report 'no/run.html': there is no folder"),
        (("run", "job.py:job", "--trace", "."), "--trace '.': cannot be written"),
        (("report", "none.html"), "none.html: No such file"),
        (("report", "none.html", "-o", "no/x.html"), "-o 'no/x.html': there is no folder"),
        (("report", "none.html", "--trace", "no/x.json"), "--trace 'no/x.json': there is no folder"),
        (("report", "job.py"), "job.py: there is no record of a run in it"),
        (("report", "job.py", "--json", "--failed"), "exclude each other"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(folder, args, words):
    done = overlapped(folder, *args)
    assert done.returncode == 2
    assert words in done.stderr
    if "--json" not in args:
        assert done.stdout == ""
