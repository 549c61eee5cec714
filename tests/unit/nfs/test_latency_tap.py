import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.nfs.latency_tap import RpcLatencyTap

CALL, REPLY = 0, 1


def record(kind: int, xid: int, size: int, fragments: int = 1) -> bytes:
    """Return an RPC record in `fragments` fragments, with `size` bytes after the XID and the message type."""
    body = xid.to_bytes(4, "big") + kind.to_bytes(4, "big") + bytes(size)
    step = max(8, -(-len(body) // fragments))
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    marks = [len(piece) | (0x80000000 if at == len(pieces) - 1 else 0) for at, piece in enumerate(pieces)]
    return b"".join(mark.to_bytes(4, "big") + piece for mark, piece in zip(marks, pieces, strict=True))


def feed(tap: RpcLatencyTap, stream: bytes, rng: random.Random, *, forth: bool, now: float) -> None:
    at = 0
    while at < len(stream):
        step = rng.choice([1, 3, 7, 100, 5000])
        (tap.on_request if forth else tap.on_response)(memoryview(stream)[at : at + step], now)
        at += step


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 4)), min_size=1, max_size=20),
    st.integers(0, 2**32),
)
def test_each_reply_is_matched_with_its_call_for_any_segmentation(records: list[tuple[int, int]], seed: int) -> None:
    rng = random.Random(seed)
    seen: list[float] = []
    tap = RpcLatencyTap(seen.append)
    xids = rng.sample(range(2**32), len(records))
    calls = b"".join(record(CALL, xid, *shape) for xid, shape in zip(xids, records, strict=True))
    feed(tap, calls, rng, forth=True, now=10.0)
    replies = [record(REPLY, xid, *shape) for xid, shape in zip(xids, records, strict=True)]
    rng.shuffle(replies)
    feed(tap, b"".join(replies), rng, forth=False, now=10.5)
    assert seen == [0.5] * len(records)
    assert tap.oldest_pending() is None


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_data_that_is_not_rpc_is_ignored(forth: bytes, back: bytes) -> None:
    tap = RpcLatencyTap(lambda _: None)
    tap.on_request(memoryview(forth), 1.0)
    tap.on_response(memoryview(back), 2.0)
    assert len(tap._pending) <= 1024


def test_calls_that_are_never_answered_are_forgotten() -> None:
    tap = RpcLatencyTap(lambda _: None)
    for xid in range(5000):
        tap.on_request(memoryview(record(CALL, xid, 10)), 1.0)
    assert len(tap._pending) <= 1024


def test_the_oldest_unanswered_call_is_known_during_other_traffic() -> None:
    tap = RpcLatencyTap(lambda _: None)
    for at, xid in enumerate((1, 2, 3)):
        tap.on_request(memoryview(record(CALL, xid, 10)), float(at))
    tap.on_response(memoryview(record(REPLY, 3, 10)), 5.0)
    assert tap.oldest_pending() == 0.0
    tap.on_response(memoryview(record(CALL, 9, 10)), 5.0)  # The server calls the client, and the client replies.
    tap.on_request(memoryview(record(REPLY, 9, 10)), 5.0)
    tap.on_response(memoryview(record(REPLY, 1, 10)), 6.0)
    assert tap.oldest_pending() == 1.0
    tap.on_response(memoryview(record(REPLY, 2, 10)), 6.0)
    assert tap.oldest_pending() is None
    tap.on_request(memoryview(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00" * 9), 7.0)  # A TLS ClientHello.
    assert not tap.parseable
