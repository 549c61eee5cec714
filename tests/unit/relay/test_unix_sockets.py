import os
import socket
import struct
from typing import cast
from unittest.mock import Mock

from gateway.forwarding.client_identity import ClientSourceAddress
from gateway.relay.unix_sockets import PeerCredentials, peer_of


def test_peer_credentials() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        me = PeerCredentials(os.getpid(), os.getuid(), os.getgid())
        assert peer_of(ours) == me
        assert ClientSourceAddress.of(ours) == ClientSourceAddress(path="", peer=me)


def test_large_user_ids_are_not_negative() -> None:
    sock = Mock(family=socket.AF_UNIX, getsockopt=lambda *_: struct.pack("iII", 7, 2**32 - 2, 2**32 - 3))
    assert peer_of(cast("socket.socket", sock)) == PeerCredentials(7, 2**32 - 2, 2**32 - 3)
