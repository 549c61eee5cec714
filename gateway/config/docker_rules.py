"""The rules of the section `docker`: its address, and what it refers to."""

from collections.abc import Iterator

from gateway.config import values
from gateway.config.decode import suggest
from gateway.config.model import Config
from gateway.docker.labels import ALIAS
from gateway.docker.options import DockerOptions, Grant, NetworkOptions, PeerOptions
from gateway.docker.projects import PROJECT_BITS

Found = tuple[tuple[str, ...], str]
"""The keys below `docker` that lead to the place, and what is wrong there."""


def docker_problems(config: Config, docker: DockerOptions, tunnels: set[str]) -> Iterator[Found]:
    """What is wrong with the section.

    Args:
        config: The whole configuration.
        docker: Its section.
        tunnels: The names of all tunnels, those included that are broken elsewhere.
    """
    yield from _address(docker, tunnels)
    for name, network in docker.networks.items():
        yield from _per_project(docker, name, network)
        yield from _unknown(network.backends, config.backends, "backend", "networks", name, "backends")
        for key, message in _addresses(network):
            yield ("networks", name, key), message
    for rule in docker.attach:
        if not (rule.names or rule.labels):
            yield ("attach",), "a rule needs names or labels: it would attach every container"
        yield from _unknown(rule.networks, docker.networks, "network", "attach")
        yield from _unknown(rule.backends, config.backends, "backend", "attach")
    if config.gateway.strict and docker.attach:
        yield ("attach",), "does not count with gateway.strict: write the rules as docker.grants"
    if docker.peers is not None:
        yield from _peers(config, docker.peers)
    for at, grant in enumerate(docker.grants):
        yield from _grant(config, grant, f"grants[{at}]")


def _per_project(docker: DockerOptions, name: str, network: NetworkOptions) -> Iterator[Found]:
    if network.per is None:
        return
    for other in docker.networks:
        if other.startswith(f"{name}-"):
            yield ("networks", other), f"begins with {name}-, as the networks of {name} (per: project) do: rename one"
    for key in ("ip_range", "address"):
        if getattr(network, key) is not None:
            yield ("networks", name, key), "is for one network, and per: project makes several: remove it"
    bits = PROJECT_BITS[network.subnet.version] if network.subnet is not None else 0
    if network.subnet is not None and network.subnet.prefixlen > bits:
        yield (
            ("networks", name, "subnet"),
            f"each project gets a /{bits} of it (per: project): make it a /{bits} or wider",
        )


def _addresses(network: NetworkOptions) -> Iterator[tuple[str, str]]:
    subnet, inner, address = network.subnet, network.ip_range, network.address
    if inner is not None and subnet is None:
        yield "ip_range", "is a part of a subnet: set subnet, too"
    elif inner is not None and subnet is not None and (inner[0] not in subnet or inner.prefixlen <= subnet.prefixlen):
        yield "ip_range", f"{inner} must be a part of the subnet {subnet}, and not all of it"
    if address is not None and subnet is not None and address.version == subnet.version and address not in subnet:
        yield "address", f"{address} is not in the subnet {subnet}"
    elif address is not None and inner is not None and address in inner:
        yield "address", f"{address} is in ip_range, from where other containers get their addresses"


def _peers(config: Config, peers: PeerOptions) -> Iterator[Found]:
    if not ALIAS.fullmatch(peers.name):
        yield ("peers", "name"), f"{peers.name!r} is not a host name: use letters, digits and '-', at most 63"
    if peers.name in config.backends:
        yield ("peers", "name"), f"{peers.name!r} is the name of a backend: choose another"


def _grant(config: Config, grant: Grant, key: str) -> Iterator[Found]:
    if not (grant.container or grant.project or grant.swarm_service):
        yield (key,), "a grant needs container, project or swarm_service: who is it for?"
    if grant.service is not None and grant.project is None:
        yield (key, "service"), "is a service of a Compose project: add project (a swarm service is swarm_service)"
    if not grant.backends:
        yield (key, "backends"), "a grant needs at least one backend"
    yield from _unknown(grant.backends, config.backends, "backend", key, "backends")
    for alias in grant.aliases:
        if not ALIAS.fullmatch(alias):
            yield (key, "aliases"), f"{alias!r} is not a host name: use letters, digits and '-', at most 63"


def _address(docker: DockerOptions, tunnels: set[str]) -> Iterator[Found]:
    host = docker.host
    if not host.startswith(("unix:///", "tcp://", "ssh://")):
        yield ("host",), f"{host!r} must be unix:///path, tcp://host:port or ssh://TUNNEL/path"
    if host.startswith("tcp://"):
        try:
            values.endpoint(host.removeprefix("tcp://"))
        except ValueError as error:
            yield ("host",), str(error)
    elif docker.via is not None:
        yield ("via",), "is for a tcp:// host: a unix socket behind a tunnel is ssh://TUNNEL/path"
    via = docker.tunnel
    if via is not None and via not in tunnels:
        yield ("host" if docker.via is None else "via",), f"there is no tunnel {via!r}{suggest(via, tunnels)}"
    if docker.tls.is_set and not host.startswith("tcp://"):
        yield ("tls",), "is for a tcp:// host"
    if (docker.tls.cert_file is None) != (docker.tls.key_file is None):
        yield ("tls",), "needs cert_file and key_file together"


def _unknown(names: tuple[str, ...], known: object, what: str, *path: str) -> Iterator[Found]:
    there = list(known) if isinstance(known, dict) else []
    for name in names:
        if name not in there:
            yield path, f"there is no {what} {name!r}{suggest(name, there)}"
