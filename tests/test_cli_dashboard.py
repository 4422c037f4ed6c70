"""`overlapped run --dashboard`: how it is written, what it says, and how it ends with the run."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.test_cli import ENDLESS, OK, ended, here, overlapped, started  # noqa: F401 - here is a fixture

if TYPE_CHECKING:
    import subprocess

ADDRESS = r"^overlapped: live page at (http://127\.0\.0\.1:(\d+)/) while the run lasts$"


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        if found := re.match(ADDRESS, line):
            return found[1]
    pytest.fail("the child ended without saying where its page is")


@pytest.mark.parametrize("options", [(), ("-q",), ("--json",), ("--progress", "plain")])
def test_without_a_port_one_is_found_and_the_word_behind_it_is_the_job(here, options):  # noqa: F811
    done = overlapped("run", *options, "--dashboard", here(OK))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(ADDRESS, done.stderr, re.MULTILINE)) == 1
    assert "live page" not in done.stdout


def test_with_a_port_it_is_that_one(here):  # noqa: F811
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    done = overlapped("run", here(OK), f"--dashboard={port}")
    assert done.returncode == 0
    assert f"http://127.0.0.1:{port}/" in done.stderr


def test_a_port_that_is_taken_is_said_before_the_job_is_even_read(here):  # noqa: F811
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        done = overlapped("run", f"--dashboard={port}", here("print('read', flush=True)\n" + OK))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"overlapped: --dashboard={port}: port {port} is taken; write --dashboard for one that is free\n"
    )


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8e3", "٨٠٠٠", pytest.param("9" * 5000, id="long")])
def test_what_is_no_port_is_bad_usage(here, port):  # noqa: F811
    done = overlapped("run", f"--dashboard={port}", here(OK))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is no port from 1 to 65535" in done.stderr


def test_behind_the_dashes_it_is_the_jobs(here):  # noqa: F811
    done = overlapped(
        "run", here("import sys\nargs = sys.argv[1:]\n" + OK.replace("range(5)", "args")), "--", "--dashboard"
    )
    assert "live page" not in done.stderr
    assert json.loads(done.stdout) == {"n": "--dashboard" * 2}


def test_ctrl_c_drains_an_endless_flow_and_whoever_looks_is_told(here):  # noqa: F811
    with started("run", "--dashboard", "--report", "out.html", here(ENDLESS)) as process:
        address = address_of(process)
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - it is http
            assert b"<h1>running: " in answer.read()
        with urllib.request.urlopen(f"{address}events", timeout=10) as answer:  # noqa: S310
            kinds: list[str | None] = []
            last: dict[str, str] = {}
            for line in answer:
                if line.startswith(b"data: "):
                    last = json.loads(line[6:])
                    if not kinds:
                        process.send_signal(signal.SIGINT)
                    kinds.append(last.get("end"))
        code, out, err = ended(process)
    assert kinds[-1] == "the run has ended early"
    assert last["name"] == "out.html"
    assert code == 130
    assert out.count("\n") > 1
    assert "Traceback" not in err
