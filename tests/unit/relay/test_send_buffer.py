import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.send_buffer import SendBuffer

STEPS = st.lists(st.one_of(st.binary(max_size=300_000), st.integers(1, 400_000)), max_size=20)


@given(STEPS)
def test_bytes_are_sent_in_order(steps: list[bytes | int]) -> None:
    buffer = SendBuffer()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        said, got = bytearray(), bytearray()
        for step in steps:
            if isinstance(step, bytes):
                buffer.append(step)
                said += step
            else:
                held = len(buffer)
                sent = buffer.send_to(ours)
                assert len(buffer) == held - sent
                wanted = len(said) - len(buffer) - len(got)
                while wanted > 0:
                    piece = theirs.recv(wanted)
                    got += piece
                    wanted -= len(piece)
        while buffer:
            for _ in range(buffer.send_to(ours)):
                got += theirs.recv(1 << 20)
                if len(got) == len(said) - len(buffer):
                    break
        assert got == said


def test_single_bytes_use_little_memory() -> None:
    buffer = SendBuffer()
    for _ in range(100_000):
        buffer.append(b"x")
    assert len(buffer) == 100_000
    assert len(buffer._chunks) <= 3
    assert sum(map(sys.getsizeof, buffer._chunks)) < 130_000


def test_a_failed_socket_raises() -> None:
    buffer = SendBuffer()
    buffer.append(b"x")
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(BrokenPipeError):
            buffer.send_to(ours)
