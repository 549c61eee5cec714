"""Defines `kind: tcp` for any TCP service. The probe connects, and can send data and check the response."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.backend_support import tls_options
from gateway.backend_support.byte_pattern import compile_pattern
from gateway.backend_support.login_options import credentials
from gateway.backend_support.probe_connection import ProbeConnection, ProbeDialer
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import BackendKind, EmptyOptions, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import SENSITIVE, HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError

_MAX_RESPONSE = 16 * 1024
"""Maximum number of bytes to read while waiting for the expected response."""
_MAX_PIECES = 100
"""Maximum number of reads for one response, to limit the CPU time. After each read, the check searches the whole
response."""
_MAX_SHOWN = 80
"""Maximum number of response bytes that an error message quotes."""
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[rnt0\\]|)")
_ESCAPED = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


@dataclass(frozen=True)
class TcpCheckOptions:
    r"""The `check:` keys of a TCP backend. Without `send`, `expect` and TLS, a check only connects.

    Args:
        send: String to send after connecting, with the escapes `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH`.
        expect: String that the first 16 KiB of the response must contain, with the same escapes.
        expect_pattern: Instead of `expect`: a regular expression (RE2 syntax) that the first 16 KiB of the response
            must match. This key requires the Python package for RE2. The container image contains the package; in
            other installations, run `pip install 'gateway[patterns]'`.
        tls: TLS settings of the check's connection. They do not affect clients.
    """

    send: str | None = field(default=None, metadata=SENSITIVE)
    expect: str | None = field(default=None, metadata=SENSITIVE)
    expect_pattern: str | None = field(default=None, metadata=SENSITIVE)
    tls: HealthCheckTlsOptions = field(default_factory=HealthCheckTlsOptions)

    def __post_init__(self) -> None:
        for key in ("send", "expect"):
            try:
                unescape(getattr(self, key) or "")
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        if self.expect_pattern is not None:
            if self.expect is not None:
                raise ValueError("expect_pattern: is set together with expect: remove one of them")
            try:
                compile_pattern(self.expect_pattern)
            except ValueError as error:
                raise ValueError(f"expect_pattern: {error}") from error


class TcpBackend:
    """A TCP backend, whose probe can check a response; implements `gateway.contracts.backend.Backend`.

    Args:
        options: An empty object, because this kind has no options.
        check: The check of the backend.
    """

    def __init__(self, options: EmptyOptions, check: TcpCheckOptions) -> None:
        self.options = options
        self.check = check
        self._send = unescape(check.send or "")
        self._expect = unescape(check.expect or "")
        self._pattern = compile_pattern(check.expect_pattern) if check.expect_pattern is not None else None
        self._dialer = ProbeDialer(check.tls, _MAX_RESPONSE)

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Connect, send `check.send` if set, and wait for the response; see `gateway.contracts.backend.Backend`."""
        async with self._dialer.open(link, target, phases) as stream:
            if self._send or self._expect or self._pattern is not None:
                with phases("query"):
                    await self._exchange(stream, phases)
        return ProbeResult(certificate=stream.certificate)

    async def _exchange(self, stream: ProbeConnection, phases: PhaseTimer) -> None:
        await stream.send(self._send)
        received, pieces = b"", 0
        while not self._is_expected(received):
            piece = await stream.read_some()
            received, pieces = received + piece, pieces + 1
            expected = "contain check.expect" if self._pattern is None else "match check.expect_pattern"
            failure = FailureReason.PROTOCOL, f"the response {received[:_MAX_SHOWN]!r} does not {expected}"
            if not piece or len(received) >= _MAX_RESPONSE or pieces == _MAX_PIECES:
                raise UnusableTargetError(*failure)
            phases.timeout_failure = failure
        phases.timeout_failure = None

    def _is_expected(self, received: bytes) -> bool:
        if self._pattern is None:
            return self._expect in received
        return self._pattern.search(received) is not None


def unescape(text: str) -> bytes:
    r"""Replace the escapes in a string, and return the result in UTF-8.

    Raises:
        ValueError: The string contains a backslash that does not begin an escape.
    """
    return b"".join(_pieces(text))


def _pieces(text: str) -> Iterator[bytes]:
    position = 0
    for match in _ESCAPE.finditer(text):
        yield text[position : match.start()].encode()
        position = match.end()
        if not match[1]:
            wrong = text[match.start() : match.start() + 2]
            raise ValueError(f"{wrong} is not an escape: use \\r, \\n, \\t, \\0, \\xHH, or \\\\ for a backslash")
        yield _ESCAPED.get(match[1]) or bytes.fromhex(match[1][1:])
    yield text[position:].encode()


KIND = BackendKind(
    "tcp",
    EmptyOptions,
    TcpCheckOptions,
    TcpBackend,
    schemes=("tcp",),
    default_port=0,
    imports=ImportedBackendDefaults(common_protocol=True),
    verify=tls_options.verify,
    credentials=credentials,
)
