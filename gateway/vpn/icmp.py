"""Pings hosts behind the VPN with ICMP echo requests (RFC 792, RFC 4443), to check that the VPN works."""

import asyncio
import contextlib
import errno
import logging
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

from gateway.contracts.config_types import IpAddress
from gateway.vpn.vpn_device_isolation import VpnDeviceIsolation

log = logging.getLogger(__name__)

_DEVICE_GONE = (errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL)
"""The errors of a socket that is bound to a device that no longer exists. If a VPN gets a new address, its client can
create the device again, with the same name. The next request then needs a new socket."""
_MAX_HOSTS = 4
_V4 = (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0)
_V6 = (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129)
_MAX_PACKETS = 64
"""The maximum number of packets to process in one call of the event loop."""
_MAX_PENDING = 64
_MAX_UNANSWERED = 3
"""Number of consecutive missing replies after which `ignore_unresponsive_hosts` ignores a host."""


class EchoMonitor:
    """Pings hosts behind a VPN: up to four hosts that have replied, and up to four hosts that have not.

    Args:
        isolation: Creates the sockets for the requests.
        on_reply: Called with the round-trip time of each reply, in seconds.
    """

    def __init__(self, isolation: VpnDeviceIsolation, on_reply: Callable[[float], None]) -> None:
        self._isolation = isolation
        self._on_reply = on_reply
        self._responds: dict[IpAddress, bool] = {}
        """For each host, whether it counts as responsive. The host that was added first is the first entry."""
        self._unanswered: Counter[IpAddress] = Counter()
        """Number of requests to each host since its last reply."""
        self._sockets: dict[int, socket.socket] = {}
        self._pending: dict[int, tuple[IpAddress, float]] = {}
        """The requests without a reply: for each sequence number, the host and the monotonic time of the request."""
        self._sequence = count(1)
        self._identifier = secrets.token_bytes(2)
        self._warned = False

    def add_host(self, address: IpAddress) -> None:
        """Add a host to ping. If the monitor then has more hosts than its limits allow, remove the oldest hosts."""
        if address in self._responds:
            return
        self._responds[address] = False
        for old in [each for each, responds in self._responds.items() if not responds][:-_MAX_HOSTS]:
            self._remove_host(old)
        for old in [each for each, responds in self._responds.items() if responds][:-_MAX_HOSTS]:
            self._remove_host(old)

    def _remove_host(self, address: IpAddress) -> None:
        del self._responds[address]
        del self._unanswered[address]

    def send_requests(self) -> bool:
        """Send an echo request to each host. Return whether at least one of the hosts is expected to reply."""
        for address in self._responds:
            self._send(address)
            self._unanswered[address] += 1
        return any(self._responds.values())

    def ignore_unresponsive_hosts(self) -> None:
        """Expect no more replies from hosts that have not replied to several requests.

        Call this method when other traffic arrives through the VPN. The VPN then works, so a missing reply means only
        that the host does not respond.
        """
        for address, requests in self._unanswered.items():
            if requests >= _MAX_UNANSWERED and self._responds.get(address):
                self._responds[address] = False

    def _send(self, address: IpAddress) -> None:
        family, protocol, request, _ = _V4 if address.version == 4 else _V6
        sock = self._socket(family, protocol)
        if sock is None:
            return
        sequence = next(self._sequence) % 0x10000
        self._pending[sequence] = (address, time.monotonic())
        if len(self._pending) > _MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        packet = struct.pack("!BBH2sH", request, 0, 0, self._identifier, sequence)
        try:
            sock.sendto(_with_checksum(packet) if family == socket.AF_INET else packet, (str(address), 0))
        except OSError as error:
            # Ignore errors such as a missing route or a full queue. The monitor then treats the reply as missing.
            if error.errno in _DEVICE_GONE:
                self.close()

    def _socket(self, family: int, protocol: int) -> socket.socket | None:
        if family in self._sockets:
            return self._sockets[family]
        sock = self._create_socket(family, protocol)
        if sock is None:
            return None
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, self._receive, sock, family)
        self._sockets[family] = sock
        return sock

    def _create_socket(self, family: int, protocol: int) -> socket.socket | None:
        """Create a ping socket if ping_group_range permits it (icmp(7)); otherwise, create a raw socket.

        Return None if neither is possible.
        """
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                return self._isolation.create_socket(family, kind, protocol)
            except PermissionError:
                continue
            except OSError as error:
                log.debug("cannot send echo requests: %s", error)
                return None
        if not self._warned:
            self._warned = True
            log.warning("cannot ping hosts behind the VPN: set net.ipv4.ping_group_range, or add CAP_NET_RAW")
        return None

    def _receive(self, sock: socket.socket, family: int) -> None:
        with contextlib.suppress(OSError):
            # Process a limited number of packets, so that a flood does not block the event loop. If packets remain,
            # the loop calls this method again.
            for _ in range(_MAX_PACKETS):
                packet = sock.recv(512)
                if sock.type == socket.SOCK_RAW:
                    if family == socket.AF_INET:
                        packet = packet[(packet[0] & 0x0F) * 4 :]  # remove the IPv4 header (RFC 791)
                    if packet[4:6] != self._identifier:
                        continue  # skip an echo reply for another process
                if len(packet) < 8 or packet[0] != (0 if family == socket.AF_INET else _V6[3]):
                    continue
                address, sent_at = self._pending.pop(int.from_bytes(packet[6:8], "big"), (None, 0.0))
                if address in self._responds:
                    self._responds[address] = True
                    self._unanswered[address] = 0
                    self._on_reply(time.monotonic() - sent_at)

    def close(self) -> None:
        """Close the ICMP sockets."""
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()


def _with_checksum(packet: bytes) -> bytes:
    total = sum(struct.unpack("!4H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]
