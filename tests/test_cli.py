"""The command line: exit codes, streams, signals and messages, each in a child process with a limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 20.0  # a child that hangs is a failure, not a wait
COMMAND = [sys.executable, "-m", "overlapped"]

OK = """
from overlapped import flow

async def double(n):
    return {"n": 2 * n}

numbers = flow(range(5)).map(double)
"""
FAILING = """
from overlapped import flow

async def helper(n):
    if n % 5 == 3:
        raise ValueError(f"no {n}")
    return n

async def check(n):
    return await helper(n)

numbers = flow(range(10)).map(check)
"""
SINK = """
from overlapped import Jsonl
flow = numbers.to(Jsonl("out.jsonl"))
"""
TWO = """
from overlapped import flow
small = flow(range(3))
big = flow(range(30))
other = 3
"""
# Says when its first call runs, so that a test need not guess when to send a signal.
HANGING = """
import asyncio, sys
from overlapped import flow

async def hang(n):
    if n == 0:
        print("began", file=sys.stderr, flush=True)
    await asyncio.sleep(1000)

numbers = flow(range(100)).map(hang)
"""
ENDLESS = """
import asyncio, itertools, sys
from overlapped import flow

async def tick(n):
    if n == 0:
        print("began", file=sys.stderr, flush=True)
    await asyncio.sleep(0.02)
    return n

numbers = flow(lambda: itertools.count()).map(tick)
"""
BLOCKED = """
import sys, time
from overlapped import flow

async def block(n):
    print("began", file=sys.stderr, flush=True)
    time.sleep(1000)

numbers = flow(range(100)).map(block)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in, with a function that writes job files into it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "job.py") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


def overlapped(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def started(*args: str, command: list[str] = COMMAND) -> Iterator[subprocess.Popen[str]]:
    """The command running in the background, killed at the end if it still is."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    with subprocess.Popen(
        [*command, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        signal.signal(signal.SIGHUP, before)
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    """Read stderr until a line has `word`."""
    assert process.stderr
    for line in process.stderr:
        if word in line:
            return
    pytest.fail(f"the child ended without saying {word!r}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and what is still to be read; `communicate` would lose what is in our buffers."""
    assert process.stdout
    assert process.stderr
    late = threading.Timer(LIMIT_S, process.kill)
    late.start()
    try:
        return process.wait(), process.stdout.read(), process.stderr.read()
    finally:
        late.cancel()


# Streams and exit codes


def test_results_are_json_lines_on_stdout_and_the_summary_is_on_stderr(here):
    done = overlapped("run", here(OK))
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"n": 2 * n} for n in range(5)]
    assert done.stderr.startswith("done     5 items")


def test_a_flow_with_a_sink_leaves_stdout_empty(here):
    done = overlapped("run", here(OK + SINK))
    assert (done.returncode, done.stdout) == (0, "")
    assert Path("out.jsonl").read_text().count("\n") == 5


def test_quiet_says_nothing_but_errors(here):
    assert overlapped("run", "-q", here(OK)).stderr == ""
    err = overlapped("run", "-q", here(FAILING)).stderr
    assert err == "overlapped: 2 items failed; the first was 3 in check: ValueError: no 3\n"


def test_verbose_explains_the_flow_before_it_runs(here):
    err = overlapped("run", "-v", here(OK)).stderr
    assert "double" in err.partition("done ")[0]


def test_options_work_before_the_command_too(here):
    assert overlapped("-q", "run", here(OK)).stderr == ""


def test_failed_items_are_kept_counted_and_exit_3(here):
    done = overlapped("run", here(FAILING))
    assert done.returncode == 3
    assert done.stdout.split() == ["0", "1", "2", "4", "5", "6", "7", "9"]
    assert "2 ValueError in check" in done.stderr


def test_on_failure_raise_ends_with_the_users_frames_only_and_exit_1(here):
    done = overlapped("run", "--on-failure", "raise", here(FAILING))
    assert done.returncode == 1
    assert done.stdout.split() == ["0", "1", "2"]
    frames = [line for line in done.stderr.splitlines() if line.startswith("  File ")]
    assert len(frames) == 2
    assert all("job.py" in line for line in frames)
    assert done.stderr.splitlines()[-1].startswith("overlapped: job.py:6: ValueError: no 3")


def test_verbose_shows_all_frames(here):
    done = overlapped("run", "-v", "--on-failure", "raise", here(FAILING))
    assert done.stderr.count("  File ") > 2


def test_more_failures_than_max_failures_exit_1(here):
    done = overlapped("run", "--max-failures", "1", here(FAILING))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "max_failures" in done.stderr.splitlines()[-1]
    assert overlapped("run", "--max-failures", "2", here(FAILING)).returncode == 3


def test_an_empty_source_is_fine(here):
    done = overlapped("run", here("from overlapped import flow\nf = flow([])\n"))
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 items" in done.stderr


@pytest.mark.parametrize(
    ("args", "text", "code"),
    [
        (["job.py"], OK, 0),
        (["--on-failure", "raise", "job.py"], FAILING, 1),
        (["job.py:nmbers"], OK, 2),
        (["--max-failures", "x", "job.py"], OK, 2),
        (["job.py"], "1/0\n", 1),
        (["job.py"], FAILING, 3),
    ],
)
def test_json_is_one_object_whatever_happens(here, args, text, code):
    here(text)
    done = overlapped("run", "--json", *args)
    answer = json.loads(done.stdout)
    assert done.returncode == answer["exit_code"] == code
    assert (answer["error"] is None) == (code == 0)
    assert done.stdout.count("\n") == 1


def test_with_json_what_the_job_and_its_processes_print_goes_to_stderr(here):
    here("""
import os
from overlapped import flow

print("loading")

def loud(n):
    print("called", flush=True)
    os.system("echo shell")
    return n

numbers = flow([1]).map(loud).map(loud, on="process")
""")
    done = overlapped("run", "--json", "-q", "job.py")
    assert json.loads(done.stdout)["exit_code"] == done.returncode == 0
    assert set(done.stderr.split()) == {"loading", "called", "shell"}
    assert done.stderr.count("called") == done.stderr.count("shell") == 2


@pytest.mark.parametrize(
    ("raises", "code", "told"),
    [
        ("sys.exit(7)", 7, "job.py:5: called sys.exit(7); 0 results were delivered"),
        ("sys.exit()", 1, "job.py:5: called sys.exit(); 0 results were delivered"),
        ("sys.exit('no disk')", 1, "no disk"),
        ("raise KeyboardInterrupt", 130, "job.py:5: KeyboardInterrupt"),
        ("raise BaseException('odd')", 1, "job.py:5: BaseException: odd"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_leaves_the_program_in_a_call_ends_the_run_with_its_record(here, kind, raises, code, told):
    here(f"import sys\nfrom overlapped import flow\n\n{kind} leave(n):\n    {raises}\n\nf = flow([1]).map(leave)\n")
    done = overlapped("run", "--json", "-q", "job.py")
    answer = json.loads(done.stdout)
    assert done.returncode == answer["exit_code"] == code
    assert answer["error"].startswith(told)
    assert answer["run"]["state"] == "failed"
    assert done.stderr.splitlines()[-1] == f"overlapped: {answer['error']}"


def test_a_file_that_raises_what_is_no_exception_shows_its_own_frames(here):
    done = overlapped("run", "--json", here("raise BaseException('odd')\n"))
    assert json.loads(done.stdout)["exit_code"] == done.returncode == 1
    frames = [line for line in done.stderr.splitlines() if line.startswith("  File ")]
    assert len(frames) == 1
    assert done.stderr.splitlines()[-1].startswith("overlapped: job.py:1: BaseException while the flow was written")


def test_an_error_out_of_a_library_names_the_users_line(here):
    here("import json\njson.loads('x')\n", "early.py")
    here("import json\nfrom overlapped import flow\n\nf = flow(['x']).map(lambda text: json.loads(text))\n")
    done = overlapped("run", "-q", "--on-failure", "raise", "job.py")
    assert done.stderr.splitlines()[-1].startswith("overlapped: job.py:4: JSONDecodeError: ")
    assert overlapped("run", "early.py").stderr.splitlines()[-1].startswith("overlapped: early.py:2: JSONDecodeError")


def test_json_gives_the_runs_record(here):
    answer = json.loads(overlapped("run", "--json", here(FAILING)).stdout)
    assert answer["run"]["items"] == 8
    assert answer["run"]["failures"][0]["item"] == "3"
    assert answer["run"]["stages"][0]["name"] == "check"


def test_what_json_cannot_hold_is_written_as_text_and_said_once(here):
    done = overlapped(
        "run",
        here("""
from pathlib import PurePosixPath
from overlapped import flow
values = [PurePosixPath("/a"), {"p": PurePosixPath("/b")}, {(1, 2): 3}, float("nan"), b"x", 7]
values = flow(values)
"""),
    )
    assert done.returncode == 0
    expected = ["/a", {"p": "/b"}, "{(1, 2): 3}", "nan", "b'x'", 7]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    assert done.stderr.count("which JSON cannot") == 1


def test_nobody_reading_stdout_ends_quietly_with_141(here):
    with started("run", here(ENDLESS)) as process:
        assert process.stdout
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == "began\n"
        assert process.wait(LIMIT_S) == 141


@pytest.mark.parametrize("args", [["run", "job.py"], ["run", "--json", "job.py"], ["--help"]])
def test_output_that_is_lost_is_told_with_exit_1(here, args):
    here(OK)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("overlapped: ")
    assert "No space left on device" in last


def test_a_job_leaves_no_cached_files_beside_it(here):
    overlapped("run", here(OK))
    assert os.listdir() == ["job.py"]


@pytest.mark.parametrize("args", [["run", "--json", "job.py"], ["run", "--json", "none.py"], ["report", "run.json"]])
def test_a_closed_stdout_is_told_by_every_command(here, args):
    here(overlapped("run", "--json", here(OK)).stdout, "run.json")
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = "none.py: no such file" if "none.py" in args else "writing to stdout: [Errno 9] it is closed"
    assert done.returncode == (2 if "none.py" in args else 1)
    assert done.stderr.splitlines()[-1].startswith(f"overlapped: {said}")
    assert "Traceback" not in done.stderr


def test_a_closed_stdout_is_told_not_waited_for(here):
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "run", here(OK)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("overlapped: writing results to stdout: ")


def test_a_job_that_closes_stdout_is_told_that_its_results_are_lost(here):
    done = overlapped("run", "-q", here("import sys\nfrom overlapped import flow\nsys.stdout.close()\nf = flow([1])\n"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("overlapped: writing results to stdout: ")
    assert done.stderr.count("\n") == 1


def test_help_into_a_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*COMMAND, "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1"}, {"TERM": "xterm-256color", "CLICOLOR_FORCE": "1"}])
def test_off_a_terminal_there_is_no_escape_and_no_carriage_return(here, env):
    here("""
from overlapped import flow

def check(text):
    if "bad" in text:
        raise ValueError("\\x1b[31mred\\r" + text)
    return text

texts = flow(["bad\\x1b[2J", "bad\\u202e", "\\x1b]0;title\\x07"]).map(check)
""")
    for args in (["run", "job.py"], ["run", "--on-failure", "raise", "job.py"], ["run", "job.py:\x1b[1m"]):
        done = subprocess.run(
            [*COMMAND, *args], capture_output=True, timeout=LIMIT_S, check=False, env=os.environ | env
        )
        assert not {b"\x1b", b"\r", b"\x07"} & {bytes([byte]) for byte in done.stdout + done.stderr}
        assert "\u202e" not in done.stderr.decode()


# Messages


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["two.py:bgi"], "two.py has no flow named 'bgi'. Did you mean 'big'? (found: small, big)"),
        (["two.py"], "two.py has 2 flows. Name one: overlapped run two.py:small (found: small, big)"),
        (["two.py:other"], "two.py:other is of type int, not a flow. (found: small, big)"),
        (["two.py:flow"], "two.py:flow is overlapped's own function, not a flow. (found: small, big)"),
        (["tow.py"], "tow.py: no such file. Did you mean 'two.py'?"),
        (["tow.py:big"], "tow.py: no such file. Did you mean 'two.py:big'?"),
        (["two"], "two: no such file. Did you mean 'two.py'?"),
        (["jobs.two:big"], "jobs.two: no such file. Did you mean 'jobs/two.py:big'?"),
        (["nothing/like/it.py"], "nothing/like/it.py: no such file"),
        (["x" * 300], f"{'x' * 300}: no such file"),
        (["."], ".: is a folder, not a Python file"),
        (
            ["none.py"],
            "none.py has no flow. Write one at the top level: flow = overlapped.flow(source).map(...)",
        ),
        (["makes.py:needy"], "makes.py:needy needs n: a function that makes the flow takes no arguments"),
        (["makes.py:wrong"], "makes.py:wrong returned a value of type list, not a flow"),
        (["exits.py"], "exits.py needs a file"),
    ],
)
def test_bad_input_is_told_in_one_line_with_exit_2(here, args, message):
    here(TWO, "two.py")
    os.mkdir("jobs")
    here(TWO, "jobs/two.py")
    here("x = 1\n", "none.py")
    here(
        "from overlapped import flow\ndef needy(n):\n    return flow([n])\ndef wrong():\n    return []\n",
        "makes.py",
    )
    here("import sys\nsys.exit('exits.py needs a file')\n", "exits.py")
    done = overlapped("run", *args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"overlapped: {message}\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run", "--jsn", "x.py"], "No such option '--jsn'. Did you mean '--json'?"),
        (["run"], "Missing argument 'JOB.py[:flow]'."),
        (["run", "--max-failures", "-1", "x.py"], "-1 is not in the range x>=0"),
        (["run", "--on-failure", "raise", "--max-failures", "1", "x.py"], "--max-failures goes with"),
        (["demo", "--items", "0"], "0 is not in the range"),
        (["demo", "--delay", "nan"], "nan is not in the range 0<=x<=10"),
    ],
)
def test_bad_options_are_told_in_one_line_with_exit_2(args, words):
    done = overlapped(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.startswith("overlapped: ")
    assert done.stderr.count("\n") == 1


def test_a_flow_written_wrongly_names_the_line_without_a_traceback(here):
    here("from overlapped import flow\n\n\nnumbers = flow(range(3)).map(7)\n")
    done = overlapped("run", "job.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("overlapped: job.py:4: ")
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_python_shows_the_line(here):
    done = overlapped("run", here("x = (\n"))
    assert done.returncode == 2
    assert "x = (" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("overlapped: job.py:1: ")


@pytest.mark.parametrize("text", ["x = '\0'\n", "# -*- coding: klingon -*-\n"])
def test_a_file_that_python_cannot_even_read_is_named(here, text):
    done = overlapped("run", here(text))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("overlapped: job.py: ")


def test_a_file_that_raises_shows_its_own_frames_with_exit_1(here):
    done = overlapped("run", here("def f():\n    return 1 / 0\n\n\nf()\n"))
    assert done.returncode == 1
    assert [line.split(",")[1] for line in done.stderr.splitlines() if "  File " in line] == [
        " line 5",
        " line 2",
    ]
    last = done.stderr.splitlines()[-1]
    assert last == "overlapped: job.py:2: ZeroDivisionError while the flow was written; nothing was started"


def test_an_error_of_a_builtin_names_stage_and_item(here):
    done = overlapped("run", "--on-failure", "raise", here("from overlapped import flow\nf = flow(['x']).map(int)\n"))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "ValueError: invalid literal" in last
    assert "int" in last


def test_without_click_one_line_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; from overlapped.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "overlapped: the command line needs click: pip install 'overlapped[standard]'\n"


# Finding and loading the flow


def test_a_function_declared_to_return_a_flow_is_found(here):
    here("from overlapped import Flow, flow\n\n\ndef numbers() -> Flow[int]:\n    return flow([1, 2])\n")
    assert overlapped("run", "job.py").stdout == "1\n2\n"


def test_a_flow_named_flow_is_taken_among_others(here):
    assert overlapped("run", here(TWO + "flow = small\n")).stdout == "0\n1\n2\n"


def test_a_flow_is_taken_by_name(here):
    assert overlapped("run", here(TWO) + ":small").stdout == "0\n1\n2\n"


def test_the_file_gets_its_arguments_and_is_not_main(here):
    here("import sys\nfrom overlapped import flow\nf = flow([__name__ == '__main__', sys.argv])\n")
    done = overlapped("run", "job.py", "--", "a", "--json", "-q")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [False, ["job.py", "a", "--json", "-q"]]


@pytest.mark.parametrize("name", ["my-job.py", "a b.py", "job"])
def test_its_functions_reach_processes_whatever_the_files_name(here, name):
    here(
        """
from dataclasses import dataclass
from overlapped import flow

@dataclass
class Page:
    number: int

def load(number):
    return Page(number)

def number(page):
    return page.number

assert __name__ != "__main__"
f = flow(range(3)).map(load, on="process").map(number)
""",
        name,
    )
    done = overlapped("run", "-q", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n1\n2\n", "")


def test_a_job_that_is_a_link_reaches_processes(here):
    here("from overlapped import flow\ndef twice(n):\n    return 2 * n\nf = flow([1]).map(twice, on='process')\n")
    os.symlink("job.py", "link.py")
    assert overlapped("run", "-q", "link.py").stdout == "2\n"


def test_the_files_folder_is_importable(here, tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "beside.py").write_text("VALUE = 5\n")
    (folder / "job.py").write_text("import beside\nfrom overlapped import flow\nf = flow([beside.VALUE])\n")
    assert overlapped("run", "jobs/job.py").stdout == "5\n"


def test_a_file_named_like_a_module_in_use_takes_no_ones_place(here, tmp_path):
    (tmp_path / "jobs").mkdir()
    assert overlapped("run", here(OK, "jobs/json.py")).returncode == 0


# Signals


def test_the_first_ctrl_c_finishes_what_is_in_flight(here):
    with started("run", here(ENDLESS)) as process:
        wait_for(process, "began")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert code == 130
    seen = [int(line) for line in out.split()]
    assert seen == list(range(len(seen)))  # nothing in flight was lost
    assert seen
    assert "stopping: no new items" in err
    assert "stopped  early" in err
    assert err.splitlines()[-1].startswith("overlapped: stopped early; everything in flight was finished")
    assert "Traceback" not in err


def test_the_second_ctrl_c_cancels_what_is_in_flight(here):
    with started("run", here(HANGING)) as process:
        wait_for(process, "began")
        process.send_signal(signal.SIGINT)
        wait_for(process, "stopping")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "overlapped: cancelled; 0 results were delivered"
    assert "Traceback" not in err


def test_the_third_ctrl_c_leaves_even_if_the_loop_never_turns(here):
    with started("run", here(BLOCKED)) as process:
        wait_for(process, "began")
        sent = 0
        while process.poll() is None and sent < 100:
            process.send_signal(signal.SIGINT)
            sent += 1
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # signals of one kind do not queue up: each must be seen
        assert (process.poll(), sent >= 3) == (130, True)


def test_sigterm_finishes_what_is_in_flight_and_exits_143(here):
    with started("run", "--json", here(ENDLESS)) as process:
        wait_for(process, "began")
        process.send_signal(signal.SIGTERM)
        code, out, err = ended(process)
    answer = json.loads(out)
    assert code == answer["exit_code"] == 143
    assert answer["run"]["state"] == "stopped"
    assert "terminated" in err


def test_sigterm_cancels_when_its_grace_is_over(here):
    code = """
import sys
from overlapped.cli import main, signals
signals.GRACE_S = 0.1
sys.exit(main(["run", "job.py"]))
"""
    here(HANGING)
    with started(command=[sys.executable, "-c", code]) as process:
        wait_for(process, "began")
        process.send_signal(signal.SIGTERM)
        status, _, err = ended(process)
    assert status == 143
    assert "0.1 s are over" in err


def test_ctrl_c_while_the_file_is_loaded_starts_nothing(here):
    here("import sys, time\nprint('began', file=sys.stderr, flush=True)\ntime.sleep(1000)\n")
    with started("run", "job.py") as process:
        wait_for(process, "began")
        process.send_signal(signal.SIGINT)
        code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert err == "overlapped: interrupted before anything was started\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_end_is_told_as_every_other_end(here, number, code):
    here("import sys, time\nprint('began', file=sys.stderr, flush=True)\ntime.sleep(1000)\n", "slow.py")
    for job, told in (("slow.py", "terminated before anything was started"), (here(ENDLESS), "stopped early; ")):
        with started("run", "--json", job) as process:
            wait_for(process, "began")
            process.send_signal(number)
            status, out, err = ended(process)
        answer = json.loads(out)
        assert status == answer["exit_code"] == code
        assert answer["error"].startswith(told)
        assert err.splitlines()[-1] == f"overlapped: {answer['error']}"


def test_a_job_under_nohup_outlives_its_terminal(here):
    with started("run", here(ENDLESS), command=["nohup", *COMMAND]) as process:
        wait_for(process, "began")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        assert ended(process)[0] == 130


# The command itself


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["run", "-h"], ["demo", "--help"], ["--version"]])
def test_help_goes_to_stdout_and_loads_nothing_slow(args):
    code = f"""
import sys
from overlapped.cli import main
status = main({args!r})
slow = {{"aiohttp", "tornado", "uvloop", "rich", "sqlite3"}} & set(sys.modules)
print(sorted(slow), file=sys.stderr)
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_the_first_screen_of_help_fits_a_terminal():
    assert overlapped("--help").stdout.count("\n") <= 24


def test_no_command_is_help_on_stderr_with_exit_2():
    done = overlapped()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: overlapped" in done.stderr
