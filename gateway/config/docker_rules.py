"""The rules of the section `docker`: its address, and what it refers to."""

from collections.abc import Iterator

from gateway.config import values
from gateway.config.decode import suggest
from gateway.config.model import Config
from gateway.docker.labels import ALIAS
from gateway.docker.options import DockerOptions, Grant, PeerOptions

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
        yield from _unknown(network.backends, config.backends, "backend", "networks", name, "backends")
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
    if docker.tls.any and not host.startswith("tcp://"):
        yield ("tls",), "is for a tcp:// host"
    if (docker.tls.cert_file is None) != (docker.tls.key_file is None):
        yield ("tls",), "needs cert_file and key_file together"


def _unknown(names: tuple[str, ...], known: object, what: str, *path: str) -> Iterator[Found]:
    there = list(known) if isinstance(known, dict) else []
    for name in names:
        if name not in there:
            yield path, f"there is no {what} {name!r}{suggest(name, there)}"
