"""Fuzz the NFS probe and the NFS tap. A hostile server responds to the probe, and the tap reads the same bytes."""

import struct
from itertools import pairwise

from gateway.backend_support.nfs_kernel_mounts import NfsBackendOptions
from gateway.backends.nfs import NfsBackend, NfsCheckOptions
from gateway.contracts.backend import ProbeResult
from gateway.facts import IDENTITY
from gateway.nfs.latency_tap import RpcLatencyTap, RpcRecordScanner
from gateway.nfs.xdr import uint
from tests.fuzz.peers import probe

LONGEST, UNIT, HEAD = 2048, 1, 1
_LAST = 0x80000000
_ACCEPTED = uint(1) + uint(0) * 3 + uint(0)


def describe(data: bytes) -> str:
    """Return the server's replies as text."""
    return "\n".join(f"{flags:08b} {body.hex(' ', 4)}" for flags, body in _replies(data))


def _replies(data: bytes) -> list[tuple[int, bytes]]:
    """Return the flags and the body of each reply in `data`. The replies begin at the second byte of `data`.

    A reply consists of a byte with flags, a byte with half of the body's length, and the body.
    """
    found, at = [], 1
    while at + 2 <= len(data):
        flags, length = data[at], data[at + 1] * 2
        found.append((flags, data[at + 2 : at + 2 + length]))
        at += 2 + length
    return found


def _record(flags: int, body: bytes, xid: bytes) -> bytes:
    """Return the bytes of an ONC RPC reply with the ID `xid`.

    If bit 0 of `flags` is set, return only `body`, without record marks. Bit 1 omits the header of the reply, and bit
    2 changes the bytes of the reply. The other bits are the maximum number of fragments minus one.
    """
    if flags & 1:
        return body
    if not flags & 2:
        body = xid + _ACCEPTED + body
    if flags & 4:
        body = bytes(a ^ b for a, b in zip(body, body[::-1], strict=True))
    size = max(1, -(-len(body) // ((flags >> 3) + 1)))
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    marks = [len(piece) | (_LAST if at == len(pieces) - 1 else 0) for at, piece in enumerate(pieces)]
    return b"".join(struct.pack(">I", mark) + piece for mark, piece in zip(marks, pieces, strict=True))


def check(data: bytes) -> None:
    """Run two probes of a server that sends the replies in `data`. Then pass the calls and the replies to the tap.

    Raises:
        AssertionError: The tap counts more replies than calls, or measures a wrong latency, or the records that
            `RpcRecordScanner` finds depend on how the replies are split into segments.
    """
    replies = _replies(data)
    passed: list[bytes] = []
    calls: list[bytes] = []

    def answer(call: bytes) -> tuple[bytes, bool]:
        calls.append(call)
        if len(passed) >= len(replies):
            return b"", True
        flags, body = replies[len(passed)]
        passed.append(_record(flags, body, call[4:8]))
        return passed[-1], bool(flags & 1)

    options = NfsBackendOptions("/media/films"), NfsCheckOptions(write=bool(data and data[0] & 1))
    for found in probe(NfsBackend(*options), answer, times=2):
        if isinstance(found, ProbeResult):
            assert found.facts[IDENTITY] is not None
    stream = b"".join(passed)
    whole = list(RpcRecordScanner().records(memoryview(stream)))
    cuts = sorted({0, len(stream), *(byte * len(stream) // 256 for byte in data[:64])})
    scanner = RpcRecordScanner()
    assert [each for a, b in pairwise(cuts) for each in scanner.records(memoryview(stream)[a:b])] == whole
    seen: list[float] = []
    tap = RpcLatencyTap(seen.append)
    tap.on_request(memoryview(b"".join(calls)), 1.0)
    tap.on_response(memoryview(stream), 3.0)
    tap.on_request(memoryview(stream), 5.0)
    assert len(seen) <= len(calls), "more replies than calls"
    assert all(each == 2.0 for each in seen)
    assert tap.oldest_pending() in (None, 1.0, 5.0)
