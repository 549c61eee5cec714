"""Defines the configuration keys of the section `docker`."""

from dataclasses import dataclass, field
from typing import Literal

from gateway.contracts.config_types import AT_LEAST_ONE, NOT_EMPTY, POSITIVE, Duration, IpAddress, IpNetwork
from gateway.contracts.secret import Secret
from gateway.tls_client_context import TlsClientFiles


@dataclass(frozen=True)
class NetworkOptions:
    """The options of one network that the gateway and its consumers (containers) share.

    Args:
        driver: The network driver. `auto` means an overlay in a swarm, and a bridge otherwise.
        create: Whether to create the network when it is missing. In a swarm, the gateway on the leader creates
            overlays.
        attachable: Whether containers, in addition to services, may join an overlay.
        internal: Whether the network has no route to external networks, so that the network never becomes a
            container's default route. If false, containers that are on no other network reach external networks
            through this network.
        per: `project`: each Compose project and each swarm stack gets its own network, such as `NAME-PROJECT`. A
            swarm service or container that is in neither also gets its own network. Absent: one network for all.
        encrypted: Whether to encrypt the traffic of an overlay between nodes.
        subnet: The network's subnet; absent: a free /22 of 10.201.0.0/16. With `per`, each of the networks
            gets a free /24 (IPv6: /64) of `subnet`, or of 10.201.0.0/16 if `subnet` is absent.
        ip_range: The part of the subnet from which containers get addresses; absent: the upper half of the subnet.
        address: The gateway's address; absent: the gateway chooses an address outside `ip_range`, and keeps it.
        mtu: The MTU in bytes; absent: the driver's default.
        backends: The backends whose names resolve on the network; absent: all.
    """

    driver: Literal["auto", "overlay", "bridge"] = "auto"
    create: bool = True
    attachable: bool = True
    internal: bool = True
    per: Literal["project"] | None = None
    encrypted: bool = False
    subnet: IpNetwork | None = None
    ip_range: IpNetwork | None = None
    address: IpAddress | None = None
    mtu: int | None = field(default=None, metadata={"least": 576, "most": 65535})
    backends: tuple[str, ...] = field(default=(), metadata=NOT_EMPTY)


@dataclass(frozen=True)
class AttachRule:
    """A rule that attaches containers to networks, even if they do not have the gateway's labels.

    Args:
        names: Patterns for the names of the containers, such as `web-*`.
        labels: Labels that a container must have, each `key` or `key=value`.
        networks: The networks to attach containers to; absent: each network on which one of `backends` is available.
        backends: The backends that the containers use; absent: all.
        aliases: The aliases of the containers on these networks.
        on_stop: `keep`: a stopped container stays attached. `detach`: the gateway detaches it.
    """

    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    backends: tuple[str, ...] = field(default=(), metadata=NOT_EMPTY)
    aliases: tuple[str, ...] = ()
    on_stop: Literal["keep", "detach"] = "keep"


@dataclass(frozen=True)
class Grant:
    """A rule that lets containers use backends. If several rules match a container, all of them apply.

    Args:
        backends: The backends that the containers may use. The gateway attaches the containers to the networks of
            these backends. A backend with `allow: {label: …}` admits the containers even without the label.
        container: Pattern for the container's name, such as `batch-*`.
        project: Pattern for the container's Compose project.
        service: Pattern for the container's service in the Compose project.
        swarm_service: Pattern for the name of the container's swarm service.
        aliases: Aliases that the containers may have on the networks of `backends`. A container without the label
            `gateway.aliases` gets all of these aliases.
    """

    backends: tuple[str, ...]
    container: str | None = None
    project: str | None = None
    service: str | None = None
    swarm_service: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class SwarmPeerOptions:
    """The options for the exchange of container addresses between the gateways on the nodes of a swarm.

    Args:
        secret: The pre-shared secret by which the gateways authenticate each other. It must have at least 32
            characters, and be the same on every node.
        port: The port on which the gateways listen. They listen only on the swarm's networks.
        name: The alias of every gateway on these networks. The gateways find each other by this alias.
    """

    secret: Secret
    port: int = field(default=9096, metadata={"least": 1, "most": 65535})
    name: str = "gw-peers"


@dataclass(frozen=True)
class DockerOptions:
    """The section `docker`: the engine, its networks, and the containers to attach to them.

    Args:
        host: The address of the engine: `unix:///path` or `tcp://host:port`. For a unix socket behind a tunnel:
            `ssh://TUNNEL/path`.
        via: The tunnel to a `tcp://` host.
        tls: Certificates for `tcp://`.
        label_prefix: The prefix of the gateway's labels on containers.
        container: The gateway's own container, by name or ID; absent: found automatically.
        networks: The networks that the gateway manages.
        attach: Rules that attach containers without labels.
        grants: Rules that let containers use backends. With `gateway.strict`, labels have no effect without such a
            rule.
        on_name_conflict: What to do if a container can resolve a name to two hosts: one host on a network of the
            gateway, and another host on a different network or in the container's hosts file. `warn`: attach the
            container, and warn. `refuse`: do not attach the container.
        services: Whether to attach swarm services. To attach a service, the gateway changes its specification. The
            swarm then restarts the tasks of the service.
        revive: Whether to start containers whose start failed because of a volume or network of the gateway. The
            gateway then also restarts containers that share the network namespace of another container, if that
            container has restarted. The label `gateway.revive` overrides this key for one container.
        peers: Exchange of container addresses between the gateways on the nodes of a swarm; absent: a gateway knows
            only the containers of its own node.
        repair: Whether to make changes that reset the connections of containers, such as attaching them again with
            other aliases. `idle`: only while they have no connections. `disruptive`: always. `never`: only report
            that the containers need such changes.
        max_detaches: Maximum number of endpoints that the gateway detaches within the time `resync`. This limit gives
            you time to undo a mistake in the configuration.
        resync: Time after which the gateway compares the engine with the configuration again, even without events.
        timeout: The timeout of one request to the engine.
    """

    host: str = "unix:///var/run/docker.sock"
    via: str | None = None
    tls: TlsClientFiles = field(default_factory=TlsClientFiles)
    label_prefix: str = "gateway"
    container: str | None = None
    networks: dict[str, NetworkOptions] = field(default_factory=dict)
    attach: tuple[AttachRule, ...] = ()
    grants: tuple[Grant, ...] = ()
    on_name_conflict: Literal["warn", "refuse"] = "warn"
    services: bool = False
    revive: bool = False
    peers: SwarmPeerOptions | None = None
    repair: Literal["idle", "disruptive", "never"] = "idle"
    max_detaches: int = field(default=10, metadata=AT_LEAST_ONE)
    resync: Duration = field(default=Duration(30.0), metadata=POSITIVE)
    timeout: Duration = field(default=Duration(30.0), metadata=POSITIVE)

    @property
    def is_local(self) -> bool:
        """Whether the address of the engine is on this host. The engine itself can run in a virtual machine."""
        if self.tunnel is not None or not self.host.startswith("tcp://"):
            return self.tunnel is None
        host = self.host.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        return host == "localhost" or host.startswith("127.") or host == "::1"

    @property
    def tunnel(self) -> str | None:
        """The name of the tunnel to the engine; None if the gateway reaches the engine directly."""
        if self.host.startswith("ssh://"):
            return self.host.removeprefix("ssh://").partition("/")[0]
        return self.via
