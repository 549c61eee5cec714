"""Echo requests (RFC 792, RFC 4443) to addresses behind the VPN, which hurt nobody, unlike connections."""

import asyncio
import contextlib
import logging
import secrets
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

from gateway.vpn.addressing import Address
from gateway.vpn.network_context import Place

log = logging.getLogger(__name__)

_MOST = 4
_V4 = (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0)
_V6 = (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129)
_REMEMBER = 64
_DOUBTED_AFTER = 3
"""Requests without an answer, while something else came through."""


class Echo:
    """Asks up to four addresses, and knows which of them have ever answered.

    Args:
        place: Where the requests leave from.
        heard: Called with each answer's round trip in seconds.
    """

    def __init__(self, place: Place, heard: Callable[[float], None]) -> None:
        self._place = place
        self._heard = heard
        self._known: dict[Address, bool] = {}
        self._unanswered: Counter[Address] = Counter()
        """Requests since the last answer."""
        self._sockets: dict[int, socket.socket] = {}
        self._sent: dict[int, tuple[Address, float]] = {}
        self._numbers = count(1)
        self._mark = secrets.token_bytes(2)
        self._told = False

    def learn(self, address: Address) -> None:
        """An address behind the VPN; the last few count."""
        if address in self._known:
            return
        self._known[address] = False
        for old in [each for each, answers in self._known.items() if not answers][:-_MOST]:
            self._forget(old)
        for old in [each for each, answers in self._known.items() if answers][:-_MOST]:
            self._forget(old)

    def _forget(self, address: Address) -> None:
        del self._known[address]
        del self._unanswered[address]

    def ask(self) -> bool:
        """Send a request to each; says whether one of them has answered before, so that an answer is due."""
        for address in self._known:
            self._send(address)
            self._unanswered[address] += 1
        return any(self._known.values())

    def doubt_the_silent(self) -> None:
        """Something else came through: who does not answer now is switched off, and says nothing of the VPN."""
        for address, requests in self._unanswered.items():
            if requests >= _DOUBTED_AFTER and self._known.get(address):
                self._known[address] = False

    def _send(self, address: Address) -> None:
        family, protocol, request, _ = _V4 if address.version == 4 else _V6
        sock = self._socket(family, protocol)
        if sock is None:
            return
        number = next(self._numbers) % 0x10000
        self._sent[number] = (address, time.monotonic())
        if len(self._sent) > _REMEMBER:
            del self._sent[next(iter(self._sent))]
        packet = struct.pack("!BBH2sH", request, 0, 0, self._mark, number)
        # No route, a full queue: the answer that does not come says all.
        with contextlib.suppress(OSError):
            sock.sendto(_with_checksum(packet) if family == socket.AF_INET else packet, (str(address), 0))

    def _socket(self, family: int, protocol: int) -> socket.socket | None:
        if family in self._sockets:
            return self._sockets[family]
        sock = self._made(family, protocol)
        if sock is None:
            return None
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, self._receive, sock, family)
        self._sockets[family] = sock
        return sock

    def _made(self, family: int, protocol: int) -> socket.socket | None:
        """One that needs no right where the range of groups permits (icmp(7)), else a raw one."""
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                return self._place.make(family, kind, protocol)
            except PermissionError:
                continue
            except OSError as error:
                log.debug("no echo requests: %s", error)
                return None
        if not self._told:
            self._told = True
            log.warning("no echo requests: net.ipv4.ping_group_range forbids them, and CAP_NET_RAW is missing")
        return None

    def _receive(self, sock: socket.socket, family: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet = sock.recv(512)
                if sock.type == socket.SOCK_RAW:
                    if family == socket.AF_INET:
                        packet = packet[(packet[0] & 0x0F) * 4 :]  # RFC 791: the header's length in words
                    if packet[4:6] != self._mark:
                        continue  # somebody else's
                if len(packet) < 8 or packet[0] != (0 if family == socket.AF_INET else _V6[3]):
                    continue
                address, sent = self._sent.pop(int.from_bytes(packet[6:8], "big"), (None, 0.0))
                if address in self._known:
                    self._known[address] = True
                    self._unanswered[address] = 0
                    self._heard(time.monotonic() - sent)

    def close(self) -> None:
        """Stop."""
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()


def _with_checksum(packet: bytes) -> bytes:
    total = sum(struct.unpack("!4H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]
