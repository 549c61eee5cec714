"""Defines `kind: hop` for TCP forwarders that connect every client to the same destination."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from math import inf

from gateway.connection_tap import Tap
from gateway.contracts.config_types import PORT, SENSITIVE, HostPort
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.link import Link, LinkStatus, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.errors import TunnelError
from gateway.facts import FactDefinition
from gateway.metric_types import Histogram
from gateway.tunnels import TunnelKind

DIALS = FactDefinition(
    "dials", "Connections to the forwarder.", metric="gateway_hop_dials", describe=lambda dials: f"{dials} dials",
    additive=True,
)  # fmt: skip
MODE = FactDefinition("mode", "How the forwarder is reached.", metric="gateway_hop_info", label="mode")


@dataclass(frozen=True)
class HopOptions:
    """The options of a tunnel through a TCP forwarder.

    Args:
        host: Name or address of the forwarder.
        port: TCP port of the forwarder.
        comment: A comment for operators, which the gateway ignores.
    """

    host: str
    port: int = field(metadata=PORT)
    comment: str = field(default="", metadata=SENSITIVE)

    @property
    def forwarder(self) -> HostPort:
        """The forwarder's address."""
        return HostPort(self.host, self.port)


class HopLink:
    """A link through a TCP forwarder; implements `gateway.contracts.link.Link`.

    Args:
        options: The options of the tunnel.
        via: The link through which this link connects to the TCP forwarder.
    """

    def __init__(self, options: HopOptions, via: Link) -> None:
        self._options = options
        self._via = via
        self._dials = 0
        self.network = via.network.behind(str(options.forwarder))

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """See `gateway.contracts.link.Link`."""
        del to
        self._dials += 1
        return await self._via.socket(self._options.forwarder, phases)

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """See `gateway.contracts.link.Link`."""
        del to
        self._dials += 1
        return await self._via.join(client, self._options.forwarder, latency, within, tap)

    async def lost(self) -> TunnelError:
        """See `gateway.contracts.link.Link`."""
        return await self._via.lost()

    def status(self) -> "HopStatus":
        """Return the status of the link. This kind of link does not measure the round-trip time."""
        return HopStatus(dials=self._dials, mode="plain")


@dataclass(frozen=True, kw_only=True)
class HopStatus(LinkStatus):
    """Status of a forwarder.

    Args:
        dials: The number of connections to the forwarder.
        mode: The kind of the connections to the forwarder: always `plain`.
    """

    dials: int
    mode: str


class HopTunnel:
    """A tunnel through a TCP forwarder; implements `gateway.contracts.tunnel.Tunnel`.

    Args:
        options: The options of the tunnel.
    """

    def __init__(self, options: HopOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The forwarder as `host:port`."""
        return str(self._options.forwarder)

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """See `gateway.contracts.tunnel.Tunnel`."""
        progress(TunnelState.CONNECTING)
        link = HopLink(self._options, via)
        yield TunnelOpenResult(link, link.status)


def _insecure_settings(options: HopOptions, plain: bool) -> Iterator[InsecureSetting]:
    if plain and options.comment != "known":
        yield InsecureSetting("host", "is a forwarder without encryption: use via", advised=True)


def _import_file(name: str, text: str) -> dict[str, str] | None:
    host, _, port = text.strip().partition(" ")
    return {"host": host, "port": port} if name.endswith(".hop") else None


KIND = TunnelKind(
    "hop",
    HopOptions,
    HopTunnel,
    schemes=("hop",),
    servers=lambda options: (options.forwarder,),
    server_dials_targets=True,
    aliases=("forwarder",),
    facts=(DIALS, MODE),
    insecure_settings=_insecure_settings,
    import_file=_import_file,
    keys_in_container={"comment": "known"},
)
