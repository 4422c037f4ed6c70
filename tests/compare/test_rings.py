"""The rings of io_uring: what is asked for is done, whole, however many at once, and an error is one."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from overlapped.compare.base import NotRunError
from overlapped.compare.rings import Operations


@pytest.fixture
def rings():
    try:
        operations = Operations(8)
    except NotRunError as error:
        pytest.skip(str(error))
    yield operations
    operations.close()


def test_more_than_there_are_places_are_done_each_with_its_own_result(rings, tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(b"".join(b"%04d" % number for number in range(1_000)))
    descriptor = os.open(path, os.O_RDONLY)
    buffers = [bytearray(4) for _ in range(1_000)]
    for number, buffer in enumerate(buffers):
        rings.read(descriptor, buffer, number, 4 * number)
    done = [rings.wait() for _ in buffers]
    os.close(descriptor)
    assert sorted(done) == [(number, 4) for number in range(1_000)]
    assert buffers == [b"%04d" % number for number in range(1_000)]


def test_bytes_go_through_a_socket_and_the_end_is_a_zero(rings):
    here, there = socket.socketpair()
    buffer = bytearray(100)
    rings.receive(there, buffer, 1)  # asked for before there is anything
    rings.send(here, b"hello", 2)
    assert sorted([rings.wait(), rings.wait()]) == [(1, 5), (2, 5)]
    assert buffer[:5] == b"hello"
    here.close()
    rings.receive(there, buffer, 3)
    assert rings.wait() == (3, 0)
    there.close()


def test_an_operation_that_fails_raises_and_the_next_one_works(rings):
    here, there = socket.socketpair()
    descriptor = os.dup(here.fileno())
    os.close(descriptor)
    rings.read(descriptor, bytearray(1), 1)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        rings.wait()
    assert caught.value.errno == errno.EBADF
    rings.send(here, b"x", 2)
    assert rings.wait() == (2, 1)
    here.close()
    there.close()


def test_a_buffer_cannot_be_made_smaller_while_the_kernel_may_fill_it(rings):
    here, there = socket.socketpair()
    buffer = bytearray(8)
    rings.receive(there, buffer, 1)
    with pytest.raises(BufferError):
        buffer.clear()
    here.close()
    assert rings.wait() == (1, 0)
    there.close()


def test_a_kernel_that_forbids_it_is_a_reason_and_no_crash(monkeypatch):
    monkeypatch.setattr("overlapped.compare.rings.SETUP", -1)
    with pytest.raises(
        NotRunError, match="io_uring_setup: Function not implemented; the kernel or container forbids it"
    ):
        Operations(8)
