"""Fuzz the negotiation with an SMB server.

For every response, the probe must return a result, or raise an error with a reason.
"""

from gateway.backends import EmptyOptions
from gateway.backends.smb import SmbBackend, SmbOptions
from gateway.contracts.backend import ProbeResult
from gateway.facts import VERSION
from tests.fuzz.peers import probe

LONGEST, UNIT, HEAD = 512, 1, 1
WORDS = (b"\xfeSMB", b"\xffSMB", b"\0\0\0\x80", b"\xbb\0\0\xc0", b"\x02\x03", b"\x11\x03", b"@\0", b"\0" * 64)
_HEADER = b"\xfeSMB" + (64).to_bytes(2, "little") + bytes(58)


def describe(data: bytes) -> str:
    """Return the server's response as hexadecimal text."""
    return _answer(data).hex(" ")


def _answer(data: bytes) -> bytes:
    """Return the server's response.

    If bit 0 of `data[0]` is set, the response begins with a valid SMB header in which some bits are changed. If bit 1
    is set, the response has no length field (4 bytes) in front.
    """
    flags, body = data[:1] or b"\0", data[1:]
    if flags[0] & 1:
        body = bytes(a ^ b for a, b in zip(_HEADER, body.ljust(64, b"\0"), strict=False)) + body[64:]
    return body if flags[0] & 2 else len(body).to_bytes(4, "big") + body


def check(data: bytes) -> None:
    """Probe a server whose response depends on `data`.

    Raises:
        AssertionError: The probe succeeds although the response has no SMB header.
    """
    answer = _answer(data)
    (found,) = probe(SmbBackend(SmbOptions("share"), EmptyOptions()), lambda _: (answer, True))
    if isinstance(found, ProbeResult):
        assert answer[4:8] == b"\xfeSMB", "the probe succeeded without an SMB header"
        assert found.facts[VERSION] is not None
