"""`kind: tcp`: any TCP service."""

from gateway.backends import BackendKind, NoOptions
from gateway.contracts import Connector, Endpoint, Phases, ProbeResult


class TcpBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: This kind has none.
        check: This kind has none.
    """

    def __init__(self, options: NoOptions, check: NoOptions) -> None:
        self.options = options
        self.check = check

    async def probe(self, link: Connector, target: Endpoint, phases: Phases) -> ProbeResult:
        """See `gateway.contracts.Backend`: connect and close. Without a protocol, nothing else can be checked."""
        (await link.socket(target, phases)).close()
        return ProbeResult()


KIND = BackendKind("tcp", NoOptions, NoOptions, TcpBackend, schemes=("tcp",), default_port=0)
