"""Renders authorized_keys lines that permit only the connections that the configured tunnels need."""

from collections.abc import Sequence

from gateway.config import Config
from gateway.contracts.tunnel_destinations import TunnelDestinations
from gateway.errors import GatewayError
from gateway.tunnels import KINDS, AuthorizedKeysRenderer


def authorized_keys(config: Config, sources: Sequence[str]) -> list[str]:
    """Return the authorized_keys lines for all tunnels whose kind uses them, such as `ssh`.

    The function blocks while it reads the tunnels' key files.

    Args:
        config: The configuration.
        sources: Addresses, networks and patterns from which logins with the keys are allowed; empty to allow all.

    Raises:
        GatewayError: No tunnel has a kind that uses authorized_keys, or the lines of a tunnel cannot be rendered.
    """
    tunnels: dict[AuthorizedKeysRenderer, list[TunnelDestinations]] = {}
    for name, spec in config.tunnels.items():
        if spec.kind.render_authorized_keys is not None:
            unix_sockets = config.docker is not None and config.docker.host.startswith(f"ssh://{name}/")
            destinations = TunnelDestinations(name, spec.options, _dialed(config, name), unix_sockets)
            tunnels.setdefault(spec.kind.render_authorized_keys, []).append(destinations)
    lines = [line for render, found in tunnels.items() for line in render(found, sources)]
    if not lines:
        kinds = " or ".join(name for name, kind in KINDS.items() if kind.render_authorized_keys is not None)
        raise GatewayError(f"no tunnel of kind {kinds} is configured: add one, or choose another file with -c")
    return lines


def _dialed(config: Config, tunnel: str) -> list[str]:
    """Return the `host:port` of each tunnel server, target or engine that the gateway dials through a tunnel."""
    targets = [
        str(endpoint)
        for spec in config.backends.values()
        for target in spec.targets
        if tunnel in spec.paths(target)
        for endpoint in spec.kind.endpoints(spec.check_options, target)
    ]
    inner = [
        str(server)
        for spec in config.tunnels.values()
        if tunnel in spec.via
        for server in spec.kind.servers(spec.options)
    ]
    engine = [config.docker.host.removeprefix("tcp://")] if config.docker and config.docker.via == tunnel else []
    return list(dict.fromkeys([*inner, *targets, *engine]))
