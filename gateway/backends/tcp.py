"""`kind: tcp`: any TCP service."""

from gateway.backends import BackendKind, NoOptions
from gateway.contracts.backend import ProbeResult
from gateway.contracts.link import Connector
from gateway.contracts.phases import Phases
from gateway.contracts.values import Endpoint


class TcpBackend:
    """See `gateway.contracts.backend.Backend`.

    Args:
        options: This kind has none.
        check: This kind has none.
    """

    def __init__(self, options: NoOptions, check: NoOptions) -> None:
        self.options = options
        self.check = check

    async def probe(self, link: Connector, target: Endpoint, phases: Phases) -> ProbeResult:
        """See `gateway.contracts.backend.Backend`.

        Connect and close. Without a protocol, nothing else can be checked.
        """
        (await link.socket(target, phases)).close()
        return ProbeResult()


KIND = BackendKind("tcp", NoOptions, NoOptions, TcpBackend, schemes=("tcp",), default_port=0)
