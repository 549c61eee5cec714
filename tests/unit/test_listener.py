"""What is bound, and what is not."""

import socket

import pytest

from gateway.contracts import Endpoint
from gateway.demo.process import free_port
from gateway.forwarding.listener import BindError, Listener


def test_localhost_is_both_addresses_or_none() -> None:
    port = free_port()  # for IPv4 too, where one that the kernel gives for IPv6 may be in use
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::1", port))
        taken.listen()
        with pytest.raises(BindError, match=rf"cannot listen on \[::1\]:{port}: Address already in use"):
            Listener(Endpoint("localhost", port))
        with socket.create_server(("127.0.0.1", port)):
            """Nothing of ours is left there."""
    listener = Listener(Endpoint("localhost", port))
    assert len(listener.descriptors) == 2
    listener.close()
