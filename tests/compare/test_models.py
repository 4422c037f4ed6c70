"""Every model against the server: order, bytes, a slow answer, an error, a refusal, a connection that is closed."""

from __future__ import annotations

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from overlapped.compare.catalog import all_models, code_lines
from overlapped.compare.runner import Once, run_once
from overlapped.compare.server import page, running_server

MODELS = all_models()
COUNT = 13
LIMIT_S = 50.0


@pytest.fixture(scope="module")
def port():
    with running_server() as port:
        yield port


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request):
    return request.param


def crawl(model, urls, concurrency=4):
    told = run_once(
        model, {"kind": "Crawl", "function": "crawl", "work": {"urls": urls, "concurrency": concurrency}}, LIMIT_S
    )
    if told["status"] == "not run":  # every package is there in tests: only the kernel may say no
        assert model.name == "completion"
        assert "forbids" in told["reason"]
        pytest.skip(told["reason"])
    return told


def digests(bodies):
    return [hashlib.sha256(body).hexdigest()[:16] for body in bodies]


def test_pages_come_whole_and_in_their_places_though_one_is_late(model, port):
    urls = [f"http://127.0.0.1:{port}/page/{n}?delay={0.2 if n == 1 else 0.002}" for n in range(COUNT)]
    told = crawl(model, urls)
    assert told.pop("status") == "ok", told
    assert told["digests"] == digests(page(n) for n in range(COUNT))
    once = Once(**told)
    assert once.seconds >= 0.2
    assert all(began <= ended <= once.seconds + 1e-4 for began, ended in zip(once.began_s, once.ended_s, strict=True))
    if model.about.one_at_a_time:
        assert once.in_flight() == 1
        assert once.ended_s == sorted(once.ended_s)
    elif model.about.has_number:
        assert 2 <= once.in_flight() <= 4
        assert once.ended_s.index(max(once.ended_s)) == 1  # the others went past it
    else:
        assert once.found is not None
    assert once.cpu_s > 0
    assert once.peak_rss_bytes > 5e6
    assert once.vain_asks >= (10 if model.name == "polling" else 0)


def test_a_page_of_many_packets_comes_whole(model, port):
    told = crawl(model, [f"http://127.0.0.1:{port}/page/{n}?size=300000" for n in range(3)])
    assert told["status"] == "ok", told
    assert told["digests"] == digests(page(n, 300_000) for n in range(3))


def test_an_error_of_the_server_is_an_error_that_names_the_page(model, port):
    urls = [f"http://127.0.0.1:{port}/page/{n}?status={500 if n == 7 else 200}" for n in range(COUNT)]
    told = crawl(model, urls)
    assert told == {"status": "failed", "reason": "the server answered 500 for /page/7?status=500"}


def test_a_refused_connection_is_an_error(model):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    told = crawl(model, [f"http://127.0.0.1:{port}/"] * 3)
    assert told["status"] == "failed"
    assert "refused" in told["reason"].lower() or "Connect call failed" in told["reason"]


class Closing(BaseHTTPRequestHandler):
    """HTTP/1.0: no length, the end of the connection is the end of the page."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page(int(self.path.rpartition("/")[2])))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def closing_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), Closing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_server_that_closes_each_connection_is_asked_again(model, closing_port):
    told = crawl(model, [f"http://127.0.0.1:{closing_port}/page/{n}" for n in range(COUNT)])
    assert told["status"] == "ok", told
    assert told["digests"] == digests(page(n) for n in range(COUNT))


# Files


READERS = [model for model in MODELS if model.does("files")]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for number in range(COUNT):
        (folder / str(number)).write_bytes(page(number, 70_000 if number == 3 else 100 * number))
    return [str(folder / str(number)) for number in range(COUNT)]


def read(model, paths):
    work = {"paths": paths, "concurrency": 4}
    return run_once(model, {"kind": "Files", "function": "files", "work": work}, LIMIT_S)


@pytest.mark.parametrize("model", READERS, ids=lambda model: model.name)
def test_files_are_read_whole_and_in_their_places(model, paths):
    told = read(model, paths)
    if model.name == "readiness" and told["status"] == "not run":  # Linux: epoll takes no files
        assert "a file is always ready" in told["reason"]
        return
    assert told["status"] == "ok", told
    assert told["digests"] == digests(page(n, 70_000 if n == 3 else 100 * n) for n in range(COUNT))
    assert told["vain_asks"] == 0


@pytest.mark.parametrize("model", READERS, ids=lambda model: model.name)
def test_a_file_that_is_not_there_is_an_error(model, paths):
    told = read(model, [*paths[:2], paths[0] + ".gone"])
    if told["status"] != "not run":
        assert told["status"] == "failed"
        assert "FileNotFoundError" in told["reason"]
        assert ".gone" in told["reason"]


def test_where_io_uring_is_denied_files_are_read_by_linux_aio(paths, monkeypatch):
    from overlapped.compare.base import Files, NotRunError
    from overlapped.compare.models import completion

    def denied(entries):
        raise NotRunError("denied")

    monkeypatch.setattr(completion, "Operations", denied)
    work = Files(paths, 4)
    work.start()
    completion.files(work)
    assert digests(work.results) == digests(page(n, 70_000 if n == 3 else 100 * n) for n in range(COUNT))


# What every model tells about itself


def test_every_model_of_the_field_is_there():
    names = {model.name for model in MODELS}
    assert names >= {"blocking", "polling", "readiness", "completion", "generators", "threads"}
    assert names >= {"gevent", "tornado", "aiohttp", "asyncio", "uvloop", "overlapped"}
    assert (MODELS[0].name, MODELS[-1].name) == ("blocking", "overlapped")


def test_a_model_is_a_short_lesson(model):
    assert model.does("crawl") is not None
    assert 5 <= model.lines("crawl") <= 100
    assert len((model.module.__doc__ or "").splitlines()) >= 4
    assert model.about.control
    assert model.about.notice


def test_lines_are_what_a_reader_must_understand():
    source = '''"""Module."""
from __future__ import annotations

ABOUT = dict(
    a=1,
)


def crawl(work):
    """Says it."""
    # a comment
    x = 1

    return x


def files(work):
    return 2
'''
    assert code_lines(source) == 5
    assert code_lines(source, without={"files"}) == 3
