"""What a configuration may say about Docker."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.contracts import AT_LEAST_ONE, POSITIVE, Duration, Secret

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class DockerTls:
    """Certificates for a `tcp://` engine; none at all: no TLS.

    Args:
        ca_file: The authority that signed the engine's certificate; absent: those that this host trusts.
        cert_file: Our certificate.
        key_file: Its private key.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def any(self) -> bool:
        """Whether there is one, so that TLS is spoken."""
        return self != DockerTls()


@dataclass(frozen=True)
class NetworkOptions:
    """One network that the gateway and its consumers share.

    Args:
        driver: `auto` is an overlay on a swarm, and a bridge on an engine of its own.
        create: Make it when it is missing; an overlay is made by the agent on the leading manager.
        attachable: Containers, not only services, may join an overlay.
        internal: The network has no route out, so that it never becomes a container's default route. With false,
            containers that have no other network reach the world through it.
        per: `project`: instead of one network, one for each Compose project, named `NAME-PROJECT`, swarm stack, swarm
            service, and container outside of these.
        encrypted: Encrypt an overlay between nodes.
        subnet: Its addresses; absent: a free /22 of 10.201.0.0/16. With `per`, the range of which each project gets a
            free /24 (IPv6: /64); absent: 10.201.0.0/16.
        ip_range: The part of the subnet that containers get their addresses from; absent: its upper half.
        address: The gateway's own; absent: one outside of `ip_range`, which stays the same.
        mtu: Largest packet in bytes; absent: the driver's own choice.
        backends: Those that are reached by name on it; absent: all.
    """

    driver: Literal["auto", "overlay", "bridge"] = "auto"
    create: bool = True
    attachable: bool = True
    internal: bool = True
    per: Literal["project"] | None = None
    encrypted: bool = False
    subnet: Subnet | None = None
    ip_range: Subnet | None = None
    address: Address | None = None
    mtu: int | None = field(default=None, metadata={"least": 576, "most": 65535})
    backends: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttachRule:
    """Containers that are attached without the gateway's labels.

    Args:
        names: Patterns for their names, as in `web-*`.
        labels: `key` or `key=value`, all of which they have.
        networks: Where to; absent: every network that carries one of `backends`.
        backends: What they use; absent: all.
        aliases: Names that they get on these networks.
        on_stop: What becomes of the attachment of a container that has stopped.
    """

    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    on_stop: Literal["keep", "detach"] = "keep"


@dataclass(frozen=True)
class Grant:
    """Containers, and what they may use; several that match add up.

    Args:
        backends: What they may use: they are attached to the networks that carry these, and let in where
            `allow: {label: …}` asks who they are.
        container: Pattern for the container's name, as in `batch-*`.
        project: Pattern for its Compose project.
        service: Pattern for its service in the Compose project.
        swarm_service: Pattern for the name of its swarm service.
        aliases: Names that they may have on these networks, and get where `gateway.aliases` asks for none.
    """

    backends: tuple[str, ...]
    container: str | None = None
    project: str | None = None
    service: str | None = None
    swarm_service: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class PeerOptions:
    """The agents of other nodes of a swarm, which report the addresses of their containers.

    Args:
        secret: The pre-shared secret that authenticates agents, at least 32 characters, the same on every node.
        port: The port that each agent listens on, at its addresses on the swarm's networks.
        name: The alias of every agent on these networks, by which agents find each other.
    """

    secret: Secret
    port: int = field(default=9096, metadata={"least": 1, "most": 65535})
    name: str = "gw-peers"


@dataclass(frozen=True)
class DockerOptions:
    """Docker networks, and the containers on them.

    Args:
        host: `unix:///path`, `tcp://host:port`, or `ssh://TUNNEL/path`: a unix socket behind a tunnel.
        via: The tunnel that a `tcp://` host is behind.
        tls: Certificates for `tcp://`.
        label_prefix: What the gateway's labels on containers begin with.
        container: The gateway's own container, by name or ID; absent: found by its ID.
        networks: The networks that the gateway keeps.
        attach: Containers to attach without labels.
        grants: Who may use what, by the operator; with `gateway.strict` nothing else counts.
        on_name_conflict: What to do when a name on a network of the gateway means something else to a container that
            is to be attached, on another of its networks or by its own host name: warn, or refuse to attach it.
        services: Attach swarm services too, by changing their specification: their tasks restart.
        revive: Start containers whose start failed because of a volume or a network of the gateway, and restart those
            that use the network of a container that was restarted. The label `gateway.revive` decides for one
            container.
        peers: Exchange of container addresses with the agents of other nodes; absent: their containers are unknown.
        repair: When an attachment with wrong aliases is made again, which resets its connections: when it has none,
            always, or never.
        max_detaches: Most endpoints that are detached within `resync`: a mistake must not detach every container.
        resync: Between two looks at everything, in addition to events.
        timeout: For one request to the engine.
    """

    host: str = "unix:///var/run/docker.sock"
    via: str | None = None
    tls: DockerTls = field(default_factory=DockerTls)
    label_prefix: str = "gateway"
    container: str | None = None
    networks: dict[str, NetworkOptions] = field(default_factory=dict)
    attach: tuple[AttachRule, ...] = ()
    grants: tuple[Grant, ...] = ()
    on_name_conflict: Literal["warn", "refuse"] = "warn"
    services: bool = False
    revive: bool = False
    peers: PeerOptions | None = None
    repair: Literal["idle", "disruptive", "never"] = "idle"
    max_detaches: int = field(default=10, metadata=AT_LEAST_ONE)
    resync: Duration = field(default=Duration(30.0), metadata=POSITIVE)
    timeout: Duration = field(default=Duration(30.0), metadata=POSITIVE)

    @property
    def is_local(self) -> bool:
        """Whether the engine is this host's."""
        if self.tunnel is not None or not self.host.startswith("tcp://"):
            return self.tunnel is None
        host = self.host.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        return host == "localhost" or host.startswith("127.") or host == "::1"

    @property
    def tunnel(self) -> str | None:
        """The tunnel that the engine is behind."""
        if self.host.startswith("ssh://"):
            return self.host.removeprefix("ssh://").partition("/")[0]
        return self.via
