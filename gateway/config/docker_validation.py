"""Checks the section `docker`: the engine's address, networks, grants, and references to other sections."""

from collections.abc import Iterator

from gateway.config import value_parsers
from gateway.config.model import Config
from gateway.config.suggestions import suggest
from gateway.docker.labels import ALIAS
from gateway.docker.options import DockerOptions, Grant, NetworkOptions, SwarmPeerOptions
from gateway.docker.per_project_network_names import PROJECT_BITS

Violation = tuple[tuple[str, ...], str]
"""A violation of a rule: the keys that lead from the section `docker` to the invalid value, such as
`("networks", "lan", "subnet")`, and a message."""


def docker_problems(config: Config, docker: DockerOptions, tunnels: set[str]) -> Iterator[Violation]:
    """Yield the rule violations in the section `docker`.

    Args:
        config: The valid parts of the configuration.
        docker: The section `docker` of the configuration.
        tunnels: The names of all tunnels, including invalid tunnels.
    """
    yield from _address(docker, tunnels)
    for name, network in docker.networks.items():
        yield from _per_project(docker, name, network)
        yield from _unknown(network.backends, config.backends, "backend", "networks", name, "backends")
        for key, message in _addresses(network):
            yield ("networks", name, key), message
    for rule in docker.attach:
        if not (rule.names or rule.labels):
            yield ("attach",), "a rule without names and labels would attach every container: add names or labels"
        yield from _unknown(rule.networks, docker.networks, "network", "attach")
        yield from _unknown(rule.backends, config.backends, "backend", "attach")
    if config.gateway.strict and docker.attach:
        yield ("attach",), "has no effect with gateway.strict: use docker.grants instead"
    if docker.peers is not None:
        yield from _peers(config, docker.peers)
    for at, grant in enumerate(docker.grants):
        yield from _grant(config, grant, f"grants[{at}]")


def _per_project(docker: DockerOptions, name: str, network: NetworkOptions) -> Iterator[Violation]:
    if network.per is None:
        return
    for other in docker.networks:
        if other.startswith(f"{name}-"):
            yield ("networks", other), f"starts with {name}-, as do the project networks of {name}: rename one"
    for key in ("ip_range", "address"):
        if getattr(network, key) is not None:
            yield ("networks", name, key), "applies to a single network, but per: project creates several: remove it"
    bits = PROJECT_BITS[network.subnet.version] if network.subnet is not None else 0
    if network.subnet is not None and network.subnet.prefixlen > bits:
        yield (
            ("networks", name, "subnet"),
            f"is too small, because each project gets a /{bits} (per: project): set a subnet of /{bits} or larger",
        )


def _addresses(network: NetworkOptions) -> Iterator[tuple[str, str]]:
    subnet, inner, address = network.subnet, network.ip_range, network.address
    if inner is not None and subnet is None:
        yield "ip_range", "must be a part of subnet, which is not set: set subnet, too"
    elif inner is not None and subnet is not None and (inner[0] not in subnet or inner.prefixlen <= subnet.prefixlen):
        yield "ip_range", f"{inner} must be inside the subnet {subnet}, and smaller than it"
    if address is not None and subnet is not None and address.version == subnet.version and address not in subnet:
        yield "address", f"{address} is not in the subnet {subnet}: choose an address in it"
    elif address is not None and inner is not None and address in inner:
        yield "address", f"{address} is in ip_range, which is for other containers: choose another address"


def _peers(config: Config, peers: SwarmPeerOptions) -> Iterator[Violation]:
    if not ALIAS.fullmatch(peers.name):
        yield ("peers", "name"), f"{peers.name!r} is not a host name: use letters, digits and '-', at most 63"
    if peers.name in config.backends:
        yield ("peers", "name"), f"{peers.name!r} is the name of a backend: choose another"


def _grant(config: Config, grant: Grant, key: str) -> Iterator[Violation]:
    if not (grant.container or grant.project or grant.swarm_service):
        yield (key,), "a grant needs container, project or swarm_service, which select the containers: add one"
    if grant.service is not None and grant.project is None:
        yield (
            (key, "service"),
            "selects a service of a Compose project: set project too, or use swarm_service for a swarm service",
        )
    if not grant.backends:
        yield (key, "backends"), "a grant needs at least one backend: add one, or remove the grant"
    yield from _unknown(grant.backends, config.backends, "backend", key, "backends")
    for alias in grant.aliases:
        if not ALIAS.fullmatch(alias):
            yield (key, "aliases"), f"{alias!r} is not a host name: use letters, digits and '-', at most 63"


def _address(docker: DockerOptions, tunnels: set[str]) -> Iterator[Violation]:
    host = docker.host
    if not host.startswith(("unix:///", "tcp://", "ssh://")):
        yield ("host",), f"{host!r} must be unix:///path, tcp://host:port or ssh://TUNNEL/path"
    if host.startswith("tcp://"):
        try:
            value_parsers.host_port(host.removeprefix("tcp://"))
        except ValueError as error:
            yield ("host",), str(error)
    elif docker.via is not None:
        yield (
            ("via",),
            "applies only to a tcp:// host: for a unix socket behind a tunnel, set host to ssh://TUNNEL/path",
        )
    via = docker.tunnel
    if via is not None and via not in tunnels:
        yield (
            ("host" if docker.via is None else "via",),
            f"there is no tunnel {via!r}{suggest(via, tunnels) or ': add it to tunnels'}",
        )
    if docker.tls.is_set and not host.startswith("tcp://"):
        yield ("tls",), "applies only to a tcp:// host: remove it, or change host"
    if (docker.tls.cert_file is None) != (docker.tls.key_file is None):
        yield ("tls",), "needs both cert_file and key_file: add the missing one"


def _unknown(names: tuple[str, ...], known: object, what: str, *path: str) -> Iterator[Violation]:
    existing = list(known) if isinstance(known, dict) else []
    for name in names:
        if name not in existing:
            yield path, f"there is no {what} {name!r}{suggest(name, existing)}"
