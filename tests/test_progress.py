"""Progress and results on their way out: drawn on a terminal, plain in a log, never at the items' cost."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading

import pytest

from overlapped.cli.lines import MOST_WAITING_CHARS, JsonLines, OutputLost
from overlapped.cli.progress import Block, Plain, Silent, frame, make_view, plain_line
from overlapped.record import Times
from overlapped.report.speed import Speed
from tests.test_report import HOSTILE, make_record, make_stage

JOB = """
import asyncio
from overlapped import flow

async def wait(n):
    await asyncio.sleep(0.3)
    if n == 2:
        print("hello")
    return n

numbers = flow(range(6)).map(wait, concurrency=2)
"""
FRAME = re.compile("\x1b\\[\\d+F\x1b\\[J")


def lines_at(columns, **changes):
    return frame(make_record(state="running", **changes), Speed(), "job.py", columns)


def test_the_block_tells_items_rate_and_every_stage_that_makes_calls():
    stages = (
        make_stage(in_flight=60, ahead=70),
        make_stage(name="batch", lane="", calls=0),
        make_stage(name="parse"),
    )
    head, titles, fetch, parse, last = lines_at(100, stages=stages, failed=3)
    assert last == "memory 50 MiB"
    assert head == "job.py  2.0 s  400 items  200/s  3 failed"
    assert titles.split() == ["stage", "done", "rate", "failed", "in", "flight", "limit", "ahead"]
    assert fetch.split() == ["fetch", "400", "200/s", "0", "60", "64", "(8-128)", "70"]
    assert parse.split()[:2] == ["parse", "400"]


def test_where_the_source_knows_its_length_the_share_and_the_time_left_are_shown():
    stage = make_stage(items_in=400, ahead=100)
    record = make_record(state="running", stages=(stage,), source_items=1_000)
    head = frame(record, Speed(), "job.py", 120)[0]
    assert head.endswith("██████               30%  ETA 0:05")  # 300 in 2 s, 700 are left
    plain_head = frame(record, Speed(), "job.py", 120, ascii_only=True)[0]
    assert plain_head.endswith("######               30%  ETA 0:05")
    assert plain_line(record, Speed()).endswith("eta 0:05")
    unknown = frame(make_record(state="running"), Speed(), "job.py", 120)[0]
    assert "ETA" not in unknown
    assert "%" not in unknown


def test_a_time_left_of_hours_is_shown_as_hours():
    stage = make_stage(items_in=400, ahead=0)
    record = make_record(state="running", stages=(stage,), source_items=10**6)
    assert "ETA 1:23:18" in frame(record, Speed(), "job.py", 120)[0]


def test_the_last_line_shows_the_rate_lately_and_what_sets_the_pace_once_it_is_known():
    speed = Speed()
    for tick in range(60):
        done = tick * 10 if tick < 30 else 300 + (tick - 30) * 40
        record = make_record(
            state="running",
            elapsed_s=tick / 5 + 0.2,
            items=done,
            stages=(make_stage(items_in=done, ahead=0, times=Times(full_s=tick / 5)),),
        )
        lines = frame(record, speed, "job.py", 160)
    rate = lines[-1].split()[1]
    assert rate[-1] == "█"
    assert rate[0] in "▁▂"
    assert "pace: fetch: all its slots were in calls" in lines[-1]
    assert frame(record, speed, "job.py", 160, ascii_only=True)[-1].isascii()


def test_usr1_tells_the_status_and_where_tasks_wait_and_the_run_goes_on(tmp_path):
    (tmp_path / "job.py").write_text(JOB.replace("range(6)", "range(40)").replace("0.3", "0.05"))
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "overlapped", "run", "job.py", "--progress", "none"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it is running
        process.send_signal(signal.SIGUSR1)
        lines += process.stdout.readlines()
        code = process.wait(timeout=30)
        process.stdout.close()
    err = (tmp_path / "err").read_text()
    assert code == 0, err
    assert len(lines) == 41  # and "hello"
    assert "running  " in err
    assert "waiting  2 x wait at" in err
    assert "job.py:6" in err


def test_the_block_is_never_wider_than_the_terminal_nor_higher_than_twelve_lines():
    stages = tuple(make_stage(name=f"大きな段階{n}" * 5, retries=10**6) for n in range(30))
    for columns in (200, 80, 60, 40, 20, 5, 2):
        lines = lines_at(columns, stages=stages)
        assert len(lines) <= 12
        for line in lines:
            assert sum(2 if ord(char) > 0x2000 else 1 for char in line) < columns


def test_where_the_terminal_knows_no_more_than_ascii_the_block_fits_as_well():
    times = Times(full_s=9.0)
    record = make_record(elapsed_s=10.0, stages=(make_stage(name="\u6bb5\u968e" * 9, times=times),))
    lines = frame(record, Speed(), "t\u00e4glich.py", 60, ascii_only=True)
    assert all(line.isascii() and len(line) < 60 for line in lines)
    assert lines[0].startswith("t\\xe4glich.py")
    assert lines[2].startswith("\\u6bb5\\u968e")


def test_a_narrow_terminal_keeps_done_rate_and_failed():
    assert lines_at(45, stages=(make_stage(),))[1].split() == [
        "stage",
        "done",
        "rate",
        "failed",
        "in",
        "flight",
    ]
    assert lines_at(30, stages=(make_stage(),))[1].split() == ["stage", "done", "rate", "failed"]


@pytest.mark.parametrize(("text", "bad"), HOSTILE)
def test_a_hostile_stage_name_cannot_touch_the_terminal(text, bad):
    record = make_record(stages=(make_stage(name=text),))
    shown = [plain_line(record, Speed()), *frame(record, Speed(), text, 100)]
    assert all(line.isprintable() for line in shown)


def test_rates_are_those_of_the_last_seconds():
    speed = Speed()
    for second in range(1, 100):
        items = 1000 * min(second, 50)  # it stops at 50 s
        per_s, (stage_per_s,) = speed.of(
            make_record(elapsed_s=float(second), items=items, stages=(make_stage(items_out=2 * items),))
        )
        if second == 50:
            assert (per_s, stage_per_s) == ("1,000/s", "2,000/s")
    assert per_s == "0/s"


def test_a_plain_line_can_be_read_by_grep():
    record = make_record(stages=(make_stage(in_flight=60, ahead=70, retries=4),), failed=1)
    assert plain_line(record, Speed()).split(" | ") == [
        "overlapped: 2s 400 items 200/s",
        "fetch 400 in-flight 60 limit 64 ahead 70",
        "failed 1 retried 4 mem 50MiB",
    ]


def test_off_a_terminal_progress_is_a_plain_line_each_ten_seconds(capsys):
    view = make_view("auto", "job.py")
    assert isinstance(view, Plain)
    assert view.every_s == 10.0
    view.show(make_record())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not {"\r", "\x1b"} & set(err)


def test_none_shows_nothing(capsys):
    view = make_view("none", "job.py")
    assert isinstance(view, Silent)
    assert view.every_s == 0
    with view:
        view.show(make_record())
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_others_print_stands_above_the_block(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with Block("job.py") as view:
        view.show(make_record())
        print("half a ", end="")
        view.show(make_record())  # must not draw into somebody's line
        print("line")
        view.show(make_record())
    assert sys.stdout is sys.stderr is terminal
    first, second, end = FRAME.split(terminal.getvalue())
    assert first.startswith("job.py")
    assert second.startswith("half a line\njob.py")
    assert end == ""


def test_a_redirected_stdout_is_left_alone_by_the_block(monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", pipe)
    with Block("job.py"):
        assert sys.stdout is pipe


def on_a_terminal(tmp_path, *args, env=None):
    """What a command writes to a terminal of 100 columns that is both its stdout and its stderr."""
    (tmp_path / "job.py").write_text(JOB)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "overlapped", "run", *args, "job.py"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,
        env=os.environ | {"TERM": "xterm"} | (env or {}),
    ) as process:
        os.close(slave)
        written = b""
        try:
            while data := os.read(master, 65536):
                written += data
        except OSError:
            pass  # Linux: the other end is closed
        finally:
            os.close(master)
        assert process.wait(20) == 0
    return written.decode().replace("\r\n", "\n")


def test_on_a_terminal_the_block_is_redrawn_and_gone_at_the_end(tmp_path):
    written = on_a_terminal(tmp_path)
    assert len(FRAME.findall(written)) >= 3
    assert written.count("hello\n") == 1
    without = FRAME.split(written)
    assert all("job.py" in part for part in without[:-1])
    assert "job.py" not in without[-1].partition("done ")[2]
    assert "5\n" in written
    assert "\r" not in written


@pytest.mark.parametrize(("args", "env"), [([], {"TERM": "dumb"}), (["--progress", "plain"], {}), (["-q"], {})])
def test_a_dumb_terminal_and_plain_and_quiet_get_no_escapes(tmp_path, args, env):
    assert "\x1b" not in on_a_terminal(tmp_path, *args, env=env)


def test_no_color_means_no_color_sequence(tmp_path):
    written = on_a_terminal(tmp_path, env={"NO_COLOR": "1"})
    assert not re.search("\x1b\\[[\\d;]*m", written)


# Results on stdout


class SlowReader(io.StringIO):
    """A pipe whose reader reads only when `reads` is set."""

    def __init__(self):
        super().__init__()
        self.reads = threading.Event()

    def write(self, text):
        self.reads.wait(10)
        return super().write(text)


def test_a_slow_reader_holds_up_the_flow_but_never_the_loop():
    async def main():
        pipe = SlowReader()
        out = JsonLines(pipe)
        await out.write("first")
        line = "x" * (MOST_WAITING_CHARS // 4)

        async def fill():
            for _ in range(100):
                await out.write(line)

        filling = asyncio.create_task(fill())
        for _ in range(200):
            await asyncio.sleep(0)  # the loop turns although nobody reads
        assert not filling.done()
        pipe.reads.set()
        await filling
        await out.finish()
        assert pipe.getvalue().count("\n") == 101

    asyncio.run(main())


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_writing_with_its_error():
    async def main():
        out = JsonLines(Full())

        async def fill():
            for _ in range(10**6):
                await out.write("x" * 1000)

        with pytest.raises(OutputLost) as lost:
            await fill()
        assert isinstance(lost.value.__cause__, OSError)
        with pytest.raises(OutputLost):
            await out.finish()

    asyncio.run(main())


def test_finish_waits_for_the_last_line():
    async def main():
        pipe = io.StringIO()
        out = JsonLines(pipe)
        for n in range(1000):
            await out.write(n)
        await out.finish()
        assert pipe.getvalue().split() == [str(n) for n in range(1000)]

    asyncio.run(main())
