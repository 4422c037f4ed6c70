"""The live page's server: who may look, what a look costs, and that nothing of it outlives its run."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
import re
import socket
import sys
import threading
import time
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from overlapped import UsageError, flow
from overlapped._engine import loop as loops
from overlapped.record import RunRecord
from overlapped.report import dashboard as dashboard_module
from overlapped.report import live, live_server, page
from overlapped.report.dashboard import Dashboard
from tests.test_page import BAD, huge
from tests.test_report import make_record, make_stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import aiohttp

RUNNING = make_record(state="running", source_items=1_000)
DONE = make_record()


@pytest.fixture(params=["uvloop", "asyncio"])
def either_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's loop, with and without uvloop."""
    if request.param == "asyncio":
        monkeypatch.setattr(loops, "_new_uvloop", lambda: None)


class Run:
    """Something that has snapshots, and counts how often they are asked for."""

    def __init__(self, record: RunRecord = RUNNING) -> None:
        self.record = record
        self.asked = 0

    def snapshot(self) -> RunRecord:
        self.asked += 1
        return dataclasses.replace(self.record, elapsed_s=self.record.elapsed_s + self.asked / 100)


def made(port: int | None = None, **options: Any) -> Dashboard:
    return Dashboard(port, name="run(dashboard)", instead="dashboard=True", **options)


def client(address: str | None = None) -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(address)


@asynccontextmanager
async def served(run: Run | None = None) -> AsyncIterator[tuple[Dashboard, aiohttp.ClientSession]]:
    with made() as board:
        board.show((run or Run()).snapshot)
        async with client(board.address) as session:
            yield board, session


def often(monkeypatch: pytest.MonkeyPatch, every_s: float = 0.01) -> None:
    """Frames as fast as that, whatever they cost."""
    monkeypatch.setattr(live_server, "EVERY_S", every_s)
    monkeypatch.setattr(live_server, "MOST_SHARE", 1e9)


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 200 kB that cost nothing to draw."""
    monkeypatch.setattr(live.Live, "frame", lambda *_: {"title": "", "bar": "", "body": "x" * 200_000})


async def next_event(answer: aiohttp.ClientResponse) -> tuple[str, dict[str, str]]:
    """The next server-sent event: its kind and what it holds."""
    kind = ""
    async for line in answer.content:
        if line.startswith(b"event: "):
            kind = line[7:].decode().strip()
        elif line.startswith(b"data: "):
            return kind, json.loads(line[6:])
    raise AssertionError("the stream has ended")


def raw(port: int, request: str) -> bytes:
    """What the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(request.encode())
        answer = b""
        while part := sock.recv(65_536):
            answer += part
        return answer


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


# -- what is served -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_loop")
def test_the_first_answer_is_a_whole_page_and_the_policy_allows_its_own_script_and_style_only():
    async def main() -> None:
        async with served() as (_, session), session.get("/") as answer:
            text = await answer.text()
            assert answer.status == 200
            assert "<h1>running: 400 items" in text
            assert text.count("<svg") >= 1
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            for tag in ("script", "style"):
                (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
                digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
                assert f"'sha256-{digest}'" in policy
            assert not re.search(r'(src|href)="(?!report"|data:,")|url\(|@import| on\w+=|style="', text)

    asyncio.run(main())


def test_a_report_opened_from_the_page_has_the_style_that_the_policy_allows():
    (inner,) = re.findall(r"<style>(.*?)</style>", page.page(DONE), re.DOTALL)
    assert base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode() in live.policy()


def test_the_bar_tells_how_far_the_run_is_and_the_time_left_only_once_there_is_evidence():
    drawing = live.Live("run.html")
    stage = make_stage(in_flight=7)
    early = drawing.frame(dataclasses.replace(RUNNING, elapsed_s=1.0, stages=(stage,)))["bar"]
    assert 'value="40"' in early
    assert "<span>of 1,000 items</span>" in early
    assert "<span>7 calls in flight</span>" in early
    assert "left" not in early
    later = drawing.frame(dataclasses.replace(RUNNING, elapsed_s=100.0, stages=(stage,)))["bar"]
    assert "<span>about 2:30 left</span>" in later
    unknown = drawing.frame(dataclasses.replace(RUNNING, source_items=None, failed=3))["bar"]
    assert "progress" not in unknown
    assert "<span>3 failed</span>" in unknown
    ended = drawing.end(dataclasses.replace(DONE, source_items=400))["bar"]
    assert 'value="100"' in ended
    assert "in flight" not in ended


@pytest.mark.parametrize("path", ["/", "/events", "/report", "/nothing"])
def test_every_answer_is_not_stored_not_sniffed_and_not_for_other_sites(path):
    async def main() -> None:
        async with served() as (_, session), session.head(path) as answer:
            assert answer.status == (404 if path == "/nothing" else 200)
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert "aiohttp" not in answer.headers["Server"]
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert await answer.read() == b""

    asyncio.run(main())


def test_the_report_so_far_is_served_while_the_run_goes_on():
    async def main() -> None:
        async with served() as (_, session), session.get("/report") as answer:
            assert 'id="overlapped-run"' in await answer.text()

    asyncio.run(main())


# -- who may look ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/events", "/report", "/nothing"])
def test_a_name_that_was_made_to_point_here_is_refused(path):
    async def main() -> None:
        async with served() as (board, session):
            for name in ("127.0.0.1", "localhost", "LocalHost", "[::1]"):
                async with session.head(path, headers={"Host": f"{name}:{board.port}"}) as answer:
                    assert answer.status != 403, name
            bad = ["evil.example", "127.0.0.1.evil.example", "localhost.", "0", "127.1", "[::]", ""]
            hosts = [f"{name}:{board.port}" for name in bad]
            hosts += [
                "127.0.0.1",
                "localhost",
                "127.0.0.1:80",
                f"localhost:{board.port + 1}",
                f"x@localhost:{board.port}",
            ]
            for host in hosts:
                async with session.get(path, headers={"Host": host}) as answer:
                    assert answer.status in (400, 403), host
                    assert "o-body" not in await answer.text()

    asyncio.run(main())


def test_no_host_and_two_hosts_are_refused():
    with made() as board:
        board.show(Run().snapshot)
        good = f"Host: 127.0.0.1:{board.port}\r\n"
        for head in ("", good + good, good + "Host: evil.example\r\n"):
            answer = raw(board.port, f"GET / HTTP/1.1\r\n{head}Connection: close\r\n\r\n")
            assert answer.split()[1] in (b"400", b"403")
        assert raw(board.port, "GET / HTTP/1.0\r\n\r\n").split()[1] == b"403"
        assert raw(board.port, f"GET / HTTP/1.1\r\n{good}Connection: close\r\n\r\n").split()[1] == b"200"


def test_a_page_of_another_origin_is_refused():
    async def main() -> None:
        async with served() as (board, session):
            for origin, status in (
                ("http://evil.example", 403),
                ("null", 403),
                (f"https://127.0.0.1:{board.port}", 403),
                (f"http://127.0.0.1:{board.port}", 200),
            ):
                async with session.head("/events", headers={"Origin": origin}) as answer:
                    assert answer.status == status, origin

    asyncio.run(main())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_it_can_only_be_read(method):
    async def main() -> None:
        async with served() as (_, session):
            for path in ("/", "/events", "/report", "/nothing"):
                async with session.request(method, path, data=b"x") as answer:
                    assert answer.status == 405
                    assert answer.headers["Allow"] == "GET,HEAD"

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is this machine on Linux only")
def test_it_is_reached_on_the_loopback_address_only():
    with made() as board:
        board.show(Run().snapshot)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", board.port), timeout=5)


def test_bytes_that_are_no_request_end_their_connection_only(capfd):
    with made() as board:
        board.show(Run().snapshot)
        for junk in ("\x00\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "X" * 100_000):
            try:
                raw(board.port, junk)
            except OSError:
                pass  # closed while we were still sending, or after waiting for more
        good = f"GET / HTTP/1.1\r\nHost: localhost:{board.port}\r\nConnection: close\r\n\r\n"
        assert raw(board.port, good).split()[1] == b"200"
    assert capfd.readouterr().err == f"overlapped: live page at {board.address} while the run lasts\n"


# -- what a look costs ----------------------------------------------------------------------------------------


def test_nothing_is_drawn_while_nobody_looks_and_once_for_all_who_do(monkeypatch):
    often(monkeypatch, 0.05)
    run = Run()

    async def main() -> None:
        async with served(run) as (_, session):
            await asyncio.sleep(0.2)
            assert run.asked == 0
            answers = [await session.get("/events") for _ in range(3)]
            seen = 0
            while seen < 6:
                for answer in answers:
                    await next_event(answer)
                seen += 1
            assert seen <= run.asked <= seen + 4  # three browsers, and as many frames as one would cost
            for answer in answers:
                answer.close()
            await asyncio.sleep(0.2)  # the server finds out with the next frame it sends
            before = run.asked
            await asyncio.sleep(0.2)
            assert run.asked == before

    asyncio.run(main())


def test_many_page_loads_draw_no_more_often_than_one(monkeypatch):
    monkeypatch.setattr(live_server, "EVERY_S", 60.0)
    run = Run()

    async def main() -> None:
        async with served(run) as (_, session):
            for path in ("/", "/", "/events", "/events", "/"):
                async with session.get(path) as answer:
                    assert answer.status == 200
            assert run.asked == 1
            for _ in range(3):
                async with session.get("/report") as answer:
                    await answer.read()
            assert run.asked == 2

    asyncio.run(main())


def test_the_longer_a_frame_takes_the_longer_the_next_one_waits():
    def slow() -> RunRecord:
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:
            pass
        return RUNNING

    async def main() -> None:
        server = live_server.LiveServer(live.Live("run.html"), slow, 1)
        server._draw()
        assert server._due_s - time.monotonic() > 0.045 / live_server.MOST_SHARE

    asyncio.run(main())


@pytest.mark.usefixtures("either_loop")
def test_a_browser_that_takes_nothing_holds_up_nobody_and_nothing_is_queued_for_it(monkeypatch):
    often(monkeypatch)
    large(monkeypatch)

    async def main() -> None:
        async with served() as (board, session):
            with socket.socket() as stuck:
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                stuck.connect(("127.0.0.1", board.port))
                stuck.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{board.port}\r\n\r\n".encode())
                async with session.get("/events") as answer:
                    size = len(json.dumps((await next_event(answer))[1]))
                    tracemalloc.start()
                    try:
                        held = []
                        for frames in (10, 40):
                            for _ in range(frames):
                                await next_event(answer)
                            held.append(tracemalloc.get_traced_memory()[0])
                    finally:
                        tracemalloc.stop()
            assert size > 100_000
            assert held[1] - held[0] < 4 * size  # and not the 40 frames that it did not take

    asyncio.run(main())


def test_a_browser_that_takes_nothing_for_long_is_let_go(monkeypatch):
    often(monkeypatch)
    large(monkeypatch)
    monkeypatch.setattr(live_server, "STUCK_S", 0.2)
    run = Run()

    async def main() -> None:
        async with served(run) as (board, _):
            with socket.socket() as stuck:
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                stuck.connect(("127.0.0.1", board.port))
                stuck.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{board.port}\r\n\r\n".encode())
                await until(lambda: run.asked > 5)
                asked = -1

                def is_quiet() -> bool:
                    nonlocal asked
                    before, asked = asked, run.asked
                    time.sleep(0.1)
                    return before == run.asked

                await until(is_quiet)

    asyncio.run(main())


def test_there_is_a_bound_on_browsers_and_the_others_are_told(monkeypatch):
    monkeypatch.setattr(live_server, "MOST_LISTENERS", 2)

    async def main() -> None:
        async with served() as (_, session):
            held = [await session.get("/events") for _ in range(2)]
            async with session.get("/events") as answer:
                assert answer.status == 503
            async with session.get("/") as answer:
                assert answer.status == 200
            for each in held:
                each.close()

    asyncio.run(main())


def test_what_cannot_be_drawn_is_said_in_the_page_and_the_run_goes_on(monkeypatch):
    often(monkeypatch)

    def broken() -> RunRecord:
        raise ValueError(BAD)

    async def main() -> None:
        with made() as board:
            board.show(broken)
            async with client(board.address) as session:
                async with session.get("/") as answer:
                    text = await answer.text()
                    assert "could not be drawn: ValueError: &lt;script&gt;" in text
                    assert "\x1b" not in text
                async with session.get("/report") as answer:
                    assert answer.status == 500
                async with session.get("/events") as answer:
                    await next_event(answer)
                    finishing = asyncio.create_task(board.finish())
                    while (await next_event(answer))[0] != "end":
                        pass
                    await finishing

    asyncio.run(main())


# -- the end --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_loop")
def test_at_the_end_those_who_look_get_the_report_and_then_the_server_is_gone():
    run = Run()

    async def main() -> None:
        async with served(run) as (board, session):
            async with session.get("/events") as answer:
                assert (await next_event(answer))[0] == ""
                run.record = DONE
                began_s = time.monotonic()
                finishing = asyncio.create_task(board.finish())
                kind, frame = await next_event(answer)
                assert (kind, frame["end"]) == ("end", "the run has ended")
                assert frame["report"].startswith("<!doctype html>")
                assert (await answer.content.read()).strip() == b""
                await finishing
                assert time.monotonic() - began_s < live_server.LAST_WORDS_S
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", board.port), timeout=5)

    asyncio.run(main())


def test_a_page_that_was_loaded_just_before_the_end_gets_the_end():
    run = Run()

    async def main() -> None:
        async with served(run) as (board, session):
            async with session.get("/") as answer:
                await answer.read()
            run.record = DONE
            finishing = asyncio.create_task(board.finish())
            await asyncio.sleep(0.1)
            async with session.get("/events") as answer:
                assert (await next_event(answer))[0] == "end"
            await finishing

    asyncio.run(main())


@pytest.mark.parametrize("reads", [True, False])
def test_the_end_waits_for_nobody_longer_than_a_second(reads):
    run = Run(dataclasses.replace(huge(6), state="failed"))

    async def main() -> float:
        async with served(run) as (board, _):
            with socket.socket() as stuck:
                stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                if reads:  # asks, and never takes
                    stuck.connect(("127.0.0.1", board.port))
                    stuck.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{board.port}\r\n\r\n".encode())
                    await until(lambda: run.asked > 0)
                    await asyncio.sleep(0.1)
                began_s = time.monotonic()
                await board.finish()
                return time.monotonic() - began_s

    took_s = asyncio.run(main())
    assert took_s < live_server.LAST_WORDS_S * (4 if reads else 0.9)  # a busy machine takes its time


def test_a_drawing_that_hangs_is_left_alone_with_a_warning(monkeypatch):
    monkeypatch.setattr(dashboard_module, "LEAVE_S", 0.1)
    go_on = threading.Event()

    def hangs() -> RunRecord:
        go_on.wait(10)
        return RUNNING

    async def main() -> None:
        with made() as board:
            board.show(hangs)
            async with client(board.address) as session:
                asking = asyncio.create_task(session.get("/"))
                await asyncio.sleep(0.1)
                with pytest.warns(ResourceWarning, match="hangs"):
                    await board.finish()
                go_on.set()
                await asyncio.wait([asking])
                asking.exception()

    asyncio.run(main())


def test_closing_twice_or_before_anything_was_shown_is_fine():
    async def main() -> None:
        with made() as board:
            await board.finish()
            board.close()
        board = made()
        board.close()

    asyncio.run(main())


# -- with a flow ----------------------------------------------------------------------------------------------


async def work(item: int) -> int:
    await asyncio.sleep(0.01)
    if item % 50 == 7:
        raise ValueError(BAD)
    return item


def address_in(capsys: pytest.CaptureFixture[str]) -> str:
    found = re.findall(
        r"^overlapped: live page at (http://127.0.0.1:\d+/) while the run lasts$", capsys.readouterr().err, re.MULTILINE
    )
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("items", [0, 1, 10])
def test_a_run_that_ends_at_once_says_its_address_once_and_leaves_nothing(items, capsys):
    report = flow(range(items)).map(work, name=BAD).run(dashboard=True, on_failure="keep")
    assert report.failed == (items > 7)
    assert address_in(capsys)


def test_a_run_that_fails_ends_its_page_and_raises_its_own_error(capsys):
    with pytest.raises(ValueError, match="script"):
        flow(range(100)).map(work).run(dashboard=True)
    assert address_in(capsys)


def test_a_run_that_is_cancelled_ends_its_page():
    async def main() -> None:
        task = asyncio.create_task(flow(range(10_000)).map(work, concurrency=1).arun(dashboard=True, on_failure="keep"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_two_runs_at_once_have_a_page_each_also_under_a_running_loop(capsys):
    async def main() -> None:
        one = flow(range(100)).map(work, name="first_of_two", concurrency=2)
        two = flow(range(100)).map(work, name="second_of_two", concurrency=2)
        runs = [
            asyncio.create_task(one.arun(dashboard=True, on_failure="keep")),
            asyncio.create_task(asyncio.to_thread(lambda: two.run(dashboard=True, on_failure="keep"))),
        ]
        found: list[str] = []
        async with asyncio.timeout(5):
            while len(found) < 2:
                await asyncio.sleep(0.01)
                found += re.findall(r"http://127.0.0.1:\d+/", capsys.readouterr().err)
        texts = []
        async with client() as session:
            for address in found:
                async with session.get(address) as answer:
                    texts.append(await answer.text())
        for name in ("first_of_two", "second_of_two"):
            assert sum(name in text for text in texts) == 1
        await asyncio.gather(*runs)

    asyncio.run(main())


def test_a_page_that_somebody_looks_at_shows_the_run_going_on_and_its_end(capsys):
    async def main() -> None:
        chain = flow(range(200)).map(work, name=BAD, concurrency=2)
        running = asyncio.create_task(chain.arun(dashboard=True, on_failure="keep"))
        address = ""
        while not address:
            await asyncio.sleep(0.01)
            address = "".join(re.findall(r"http://127.0.0.1:\d+/", capsys.readouterr().err))
        frames = []
        async with client(address) as session, session.get("/events") as answer:
            kind = ""
            while kind != "end":
                kind, frame = await next_event(answer)
                frames.append(frame)
        report = await running
        assert report.failed == 4
        assert len(frames) >= 3
        assert len({frame["body"] for frame in frames}) == len(frames)
        assert frames[-1]["end"] == "the run has ended"
        assert "4 failed" in frames[-1]["title"]
        for frame in frames:
            for text in frame.values():
                assert "<script>alert" not in text
                assert "\x1b" not in text
                assert "\u202e" not in text

    asyncio.run(main())


@pytest.mark.parametrize("bad", [0, -1, 65_536, "8000", 80.5, None])
def test_what_is_no_port_is_refused(bad):
    ran: list[int] = []
    with pytest.raises(UsageError, match="dashboard must be True or a port.*write dashboard=True"):
        flow([1]).map(ran.append).run(dashboard=bad)
    assert ran == []


def test_a_port_that_is_taken_is_said_before_anything_runs():
    ran: list[int] = []
    with made() as board, pytest.raises(UsageError, match=rf"port {board.port} is taken; write dashboard=True"):
        flow([1]).map(ran.append).run(dashboard=board.port)
    assert ran == []
    with made(board.port):
        pass  # it is free again at once


@pytest.mark.parametrize("missing", ["aiohttp.web", "jinja2"])
def test_what_is_missing_is_said_before_anything_runs(missing, monkeypatch):
    if missing == "jinja2":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    ran: list[int] = []
    with pytest.raises(
        UsageError, match=rf"run\(dashboard\) needs {missing[:6]}.*pip install 'overlapped\[standard\]'"
    ):
        flow([1]).map(ran.append).run(dashboard=True)
    assert ran == []
