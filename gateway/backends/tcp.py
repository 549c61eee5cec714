"""Defines `kind: tcp` for any TCP service."""

from gateway.backends import BackendKind, EmptyOptions
from gateway.contracts.backend import ProbeResult
from gateway.contracts.link import Connector
from gateway.contracts.phases import Phases
from gateway.contracts.values import Endpoint


class TcpBackend:
    """See `gateway.contracts.backend.Backend`.

    Args:
        options: An empty object, because this kind has no options.
        check: An empty object, because this kind has no check options.
    """

    def __init__(self, options: EmptyOptions, check: EmptyOptions) -> None:
        self.options = options
        self.check = check

    async def probe(self, link: Connector, target: Endpoint, phases: Phases) -> ProbeResult:
        """See `gateway.contracts.backend.Backend`.

        Open a connection and close it. The protocol is unknown, so that the probe cannot check anything else.
        """
        (await link.socket(target, phases)).close()
        return ProbeResult()


KIND = BackendKind("tcp", EmptyOptions, EmptyOptions, TcpBackend, schemes=("tcp",), default_port=0)
