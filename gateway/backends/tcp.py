"""`kind: tcp`: anything that accepts a connection."""

from dataclasses import dataclass

from gateway.backends import BackendKind, NoOptions
from gateway.contracts import Endpoint, Link, Phases, ProbeResult


@dataclass(frozen=True)
class TcpBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: None of its own.
        check: None of its own.
    """

    options: NoOptions
    check: NoOptions

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> ProbeResult:
        """Connect and close: all that can be known without a protocol."""
        (await link.socket(target, phases)).close()
        return ProbeResult()


KIND = BackendKind("tcp", NoOptions, NoOptions, TcpBackend, scheme="tcp", default_port=0)
