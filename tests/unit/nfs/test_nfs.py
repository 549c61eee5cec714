"""Tests of valid and invalid RPC and XDR messages from servers."""

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.nfs import nfs4
from gateway.nfs.nfs4_compound import Nfs4StatusError
from gateway.nfs.rpc import RpcClient, RpcError
from gateway.nfs.xdr import XdrError, XdrReader, opaque, uhyper, uint


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_xdr_reads_what_it_writes(data: bytes, small: int, large: int) -> None:
    reader = XdrReader(opaque(data) + uint(small) + uhyper(large))
    assert (reader.opaque(), reader.uint(), reader.uhyper()) == (data, small, large)


def test_a_bitmap_names_its_attributes() -> None:
    assert XdrReader(uint(2) + uint(1 << 8 | 1 << 10) + uint(1 << 10)).bitmap() == [8, 10, 42]


@given(st.binary(max_size=40))
def test_garbage_raises_only_xdr_errors(data: bytes) -> None:
    reader = XdrReader(data)
    with pytest.raises(XdrError):
        for _ in range(20):
            reader.opaque()
            reader.uint()


async def answered(reply: bytes, *, fragments: int = 1) -> XdrReader:
    """Make one RPC call to a server that responds with the call's transaction ID and `reply`."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        call = asyncio.ensure_future(RpcClient(ours, nfs4.PROGRAM, nfs4.VERSION).call(0))
        sent = await loop.sock_recv(theirs, 4096)
        record = sent[4:8] + reply
        size = -(-len(record) // fragments)
        for at in range(0, len(record), size):
            piece = record[at : at + size]
            last = 0x80000000 if at + size >= len(record) else 0
            await loop.sock_sendall(theirs, struct.pack(">I", last | len(piece)) + piece)
        theirs.shutdown(socket.SHUT_WR)
        return await call


ACCEPTED = uint(1) + uint(0) + uint(0) + uint(0)


async def test_a_reply_in_fragments_is_put_together() -> None:
    reader = await answered(ACCEPTED + uint(0) + uint(7), fragments=5)
    assert reader.uint() == 7


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (ACCEPTED + uint(2) + uint(3) + uint(3), RpcError, "does not support this version"),
        (ACCEPTED + uint(1), RpcError, "does not support this RPC program"),
        (ACCEPTED + uint(5), RpcError, "system error"),
        (uint(1) + uint(1) + uint(1), RpcError, "rejected the credentials of the gateway's call"),
        (uint(0), XdrError, "does not match the call"),
        (ACCEPTED, XdrError, "4 bytes too short"),
    ],
)
async def test_rpc_refusals_have_a_reason(reply: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await answered(reply)


async def test_an_endless_record_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(struct.pack(">I", 0x7FFFFFFF))
        with pytest.raises(XdrError, match="does not speak RPC"):
            await RpcClient(ours, nfs4.PROGRAM, nfs4.VERSION).call(0)


async def test_a_reply_of_endless_empty_fragments_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(bytes(4 * 2000))
        with pytest.raises(XdrError, match="more than 1024 fragments"):
            await RpcClient(ours, nfs4.PROGRAM, nfs4.VERSION).call(0)


async def made_and_removed(*statuses: int) -> int:
    """Create and remove a canary on an NFS server, and return the number of COMPOUND requests.

    The server responds to the first requests with `statuses`, one status per request. To later requests, the server
    responds with the status NFS4ERR_NOENT.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        asked = 0

        async def serve() -> None:
            nonlocal asked
            loop = asyncio.get_running_loop()
            while sent := await loop.sock_recv(theirs, 4096):
                status = statuses[asked] if asked < len(statuses) else nfs4.NFS4ERR_NOENT
                asked += 1
                record = sent[4:8] + ACCEPTED + uint(0) + uint(status) + opaque(b"") + uint(3)
                await loop.sock_sendall(theirs, struct.pack(">I", 0x80000000 | len(record)) + record)

        server = asyncio.ensure_future(serve())
        try:
            await nfs4.create_and_remove(RpcClient(ours, nfs4.PROGRAM, nfs4.VERSION), "/media", "canary")
        finally:
            server.cancel()
            await asyncio.wait([server])
        return asked


async def test_a_canary_that_is_removed_during_its_creation_is_created_again() -> None:
    assert await made_and_removed(nfs4.NFS4ERR_NOENT, nfs4.NFS4ERR_NOENT, 0) == 4


async def test_a_server_that_never_creates_a_canary_is_reported() -> None:
    with pytest.raises(Nfs4StatusError, match="CREATE: no such directory"):
        await made_and_removed()


def test_a_bitmap_of_more_attributes_than_there_are_is_refused() -> None:
    with pytest.raises(XdrError, match="a bitmap has 9 words"):
        XdrReader(uint(9) + bytes(36)).bitmap()
