"""The demo: what it measures is there, what it starts is gone, whatever ends it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from overlapped.cli.jobs import crawl
from overlapped.cli.site import MOST_PAGES, library_files, running_site
from overlapped.compare.catalog import all_models
from tests.test_cli import COMMAND, LIMIT_S, ended, overlapped, started, wait_for

EXAMPLE = Path(__file__).parent.parent / "examples" / "crawl.py"
JOB_ONLY = ["demo", "--no-compare"]
QUICK = [*JOB_ONLY, "--items", "60", "--delay", "0.02"]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which must be empty at the end."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 10
    while sites(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sites(tmp_path) == []


def sites(mark: Path) -> list[int]:
    """Sites still running that were started with `mark` in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue  # ended meanwhile, or somebody else's
        is_ours = any(name in command for name in (b"overlapped.cli.site", b"overlapped.compare"))
        if is_ours and os.fsencode(mark) in environment:
            found.append(int(entry.name))
    return found


def test_the_demo_prints_what_it_measured_and_leaves_nothing(temporary):
    done = overlapped(*QUICK)
    assert (done.returncode, done.stderr.count("\n")) == (0, 2), done.stderr
    text = done.stdout
    assert "20 pages in " in text
    assert "60 would take about " in text
    assert "(estimate: 3 times as many)" in text
    assert "no number was given" in text
    assert "context switches    voluntary  involuntary  a page" in text
    assert "where    fetch" in text
    assert "from the database: 60 pages, " in text
    assert not {"\x1b", "\r"} & set(text + done.stderr)


def test_the_demo_in_json_is_one_object_with_a_real_answer(temporary):
    done = overlapped(*QUICK, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    answer = json.loads(done.stdout)
    pages = library_files()[:60]
    counts = [crawl.parse(crawl.Page(path.name, path.read_bytes())) for path in pages]
    assert answer["answer"]["pages"] == 60
    assert answer["answer"]["functions"] == sum(count.functions for count in counts)
    assert answer["answer"]["lines"] == sum(count.lines for count in counts)
    assert answer["answer"]["bytes"] == sum(path.stat().st_size for path in pages)
    assert answer["answer"]["most_functions"][0]["functions"] == max(count.functions for count in counts)
    assert answer["one_at_a_time"]["items"] == 20
    assert answer["one_at_a_time"]["elapsed_s"] >= 20 * 0.02
    assert answer["speed_up"] > 1
    assert answer["run"]["state"] == "done"


@pytest.mark.slow
def test_the_demo_opens_with_every_model_and_ends_with_what_is_next(temporary):
    done = overlapped("demo", "--items", "40", "--delay", "0.01")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("crawl: 40 requests, each answer 10 ms late")
    first_words = [line.split(" ")[0] for line in lines]
    for model in all_models():
        assert model.name in first_words[: first_words.index("one")]
    assert "40 pages of this Python's library" in done.stdout
    assert lines[-1].startswith("next: overlapped compare http://")


def test_ctrl_c_during_the_comparison_leaves_nothing(temporary):
    with started("demo", "--delay", "5") as process:
        wait_for(process, "overlapped: blocking")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_few_pages_are_all_done_one_at_a_time_and_nothing_is_estimated(temporary):
    done = overlapped(*JOB_ONLY, "--items", "3", "--delay", "0")
    assert done.returncode == 0, done.stderr
    assert "would take" not in done.stdout
    assert "one at a time  3 pages" in done.stdout


def test_ctrl_c_during_the_measurement_leaves_nothing(temporary):
    with started(*JOB_ONLY, "--delay", "0.5") as process:
        wait_for(process, "one at a time")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_sigterm_during_the_measurement_leaves_nothing(temporary):
    with started(*JOB_ONLY, "--delay", "0.5") as process:
        wait_for(process, "one at a time")
        process.send_signal(signal.SIGTERM)
        code, out, err = ended(process)
    assert (code, out) == (143, "")
    assert "Traceback" not in err


def test_ctrl_c_to_the_whole_group_lets_the_flow_finish_what_is_in_flight(temporary):
    with subprocess.Popen(
        [*COMMAND, *JOB_ONLY, "--items", "400", "--delay", "0.05", "--progress", "plain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_for(process, "now all 400")
        time.sleep(0.2)  # until some are in flight
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = ended(process)
    assert code == 130
    assert "Traceback" not in err
    assert "failed" not in err


def test_the_demo_killed_outright_leaves_no_site(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started(*JOB_ONLY, "--delay", "0.5") as process:
        wait_for(process, "one at a time")
        assert len(sites(tmp_path)) == 1
        process.kill()
        process.wait(LIMIT_S)
    deadline = time.monotonic() + 10
    while sites(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sites(tmp_path) == []


def test_without_tornado_one_line_says_what_to_install():
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "tornado" else find(name, package)
from overlapped.cli import main
sys.exit(main(["demo", "--no-compare"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "overlapped: the demo needs tornado: pip install 'overlapped[standard,tornado]'\n"


# The site


def get(site: str, path: str) -> tuple[int, bytes, float]:
    start = time.perf_counter()
    with closing(http.client.HTTPConnection(urlsplit(site).netloc, timeout=LIMIT_S)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(), time.perf_counter() - start


def test_the_site_serves_the_standard_library_late_and_ends_with_its_scope():
    files = library_files()
    with running_site(0.1) as site:
        status, index, late_s = get(site, "/")
        paths = index.decode().split()
        assert status == 200
        assert late_s >= 0.1
        assert len(paths) == len(files) <= MOST_PAGES
        assert get(site, paths[0])[1] == files[0].read_bytes()
        assert get(site, "/../../etc/passwd")[0] == 404
        assert get(site, "/no/such/page")[0] == 404
    with pytest.raises(OSError):
        get(site, "/")


# The job


def test_the_job_counts_what_is_in_a_page():
    page = crawl.Page("/a", b"class A:\n    def f(self): pass\nasync def g(): pass\n# def h\n", 7)
    assert crawl.parse(page) == crawl.Counts("/a", 4, 2, 1, len(page.body), 7)


@pytest.mark.parametrize("body", [b"", b"\x00\xff\xfe", b"(" * 5000, b"# coding: no", b"default = define(classy)"])
def test_an_odd_page_has_no_functions_but_does_no_harm(body):
    assert crawl.parse(crawl.Page("/odd", body)) == crawl.Counts("/odd", 0, 0, 0, len(body), 0)


def test_the_job_needs_a_file_of_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = overlapped("run", str(EXAMPLE))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("overlapped: crawl.py needs a file with one URL a line")
    done = overlapped("run", str(EXAMPLE), "--", "urls.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("overlapped: urls.txt: no such file")
    assert list(tmp_path.iterdir()) == []


def test_the_example_runs_by_itself_and_keeps_failed_pages_apart(tmp_path, monkeypatch):
    import sqlite3

    monkeypatch.chdir(tmp_path)
    with running_site(0) as site:
        paths = get(site, "/")[1].decode().split()[:20]
        Path("urls.txt").write_text("\n".join([*(site + path for path in paths), "", site + "/no/such/page"]))
        done = overlapped("run", str(EXAMPLE), "--", "urls.txt")
    assert done.returncode == 3, done.stderr
    assert "1 ClientResponseError in fetch" in done.stderr
    assert sum(json.loads(line) for line in done.stdout.splitlines()) == 20
    with closing(sqlite3.connect("pages.db")) as db:
        pages, size, total = db.execute("SELECT count(*), sum(bytes), max(total_bytes) FROM pages").fetchone()
    assert pages == 20
    assert size == total
