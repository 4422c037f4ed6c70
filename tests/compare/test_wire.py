"""HTTP without I/O: an answer is the same however it is cut, and what is none is said to be none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlapped.compare.base import BadAnswerError, Crawl
from overlapped.compare.wire import Answer

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + PLAIN
TO_THE_END = b"HTTP/1.0 200 OK\r\n\r\nhello"


@pytest.mark.parametrize("sent", [PLAIN, CHUNKED, INTERIM, TO_THE_END])
@given(cuts=st.lists(st.integers(0, 120), max_size=6).map(sorted))
def test_an_answer_is_the_same_however_it_is_cut(sent, cuts):
    answer = Answer("/a")
    at, is_done = 0, False
    for cut in [*cuts, len(sent)]:
        if sent[at:cut]:
            assert not is_done
            is_done = answer.feed(sent[at:cut])
            at = max(at, cut)
    is_done = is_done or answer.feed(b"")
    assert is_done
    assert answer.body() == b"hello"
    assert answer.keeps == (sent != TO_THE_END)


@pytest.mark.parametrize("sent", [PLAIN, CHUNKED, INTERIM])
def test_an_answer_that_ends_early_is_an_error_at_every_byte(sent):
    for length in range(len(sent)):
        answer = Answer("/a")
        if length:
            assert not answer.feed(sent[:length])
        with pytest.raises(BadAnswerError, match="/a"):
            answer.feed(b"")


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\r\n\r\n",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_said_to_be_none(sent):
    with pytest.raises(BadAnswerError, match="/a"):
        Answer("/a").feed(sent)


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 Oops", b"301 Moved", b"204 Nothing"])
def test_another_status_than_200_is_an_error_that_names_it(status):
    answer = Answer("/a")
    assert answer.feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(BadAnswerError, match=f"answered {status[:3].decode()} for /a"):
        answer.body()


def test_an_address_of_ipv6_stands_in_brackets():
    assert b"\r\nHost: [::1]:8000\r\n" in Crawl(["http://[::1]:8000/"], 1).request(0)
    assert b"\r\nHost: localhost:8000\r\n" in Crawl(["http://localhost:8000/"], 1).request(0)


def test_a_server_that_wants_to_close_is_left():
    answer = Answer("/a")
    assert answer.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert not answer.keeps
