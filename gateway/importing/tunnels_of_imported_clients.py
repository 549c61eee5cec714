"""Finds the local forward or the tunnel that each imported client of a remote service uses."""

from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import (
    HERE,
    HOST_NAMES,
    LOOPBACK,
    ImportedClient,
    ImportedContainer,
    ImportedLocalForward,
)


def join_networks(result: ImportResult) -> None:
    """If a container shares the network of a VPN container, set `via` of its clients and tunnels to the VPN's tunnel.

    A container with `network_mode: service:NAME` or `container:NAME` shares the network of the container `NAME`.

    Args:
        result: The imported configuration, in which the function sets `via` of the clients and tunnels of these
            containers.
    """
    tunnels = {name: each.tunnel for each in result.containers if each.tunnel for name in each.names}
    for client in result.clients:
        tunnel = _shared_tunnel(client.container, tunnels)
        if tunnel and client.via is None:
            client.via = tunnel
        elif tunnel and client.via is not None:
            _set_via(client.via, tunnel, result)
    for forward in result.forwards:
        container = next((each for each in result.containers if each.where == forward.where), None)
        tunnel = _shared_tunnel(container, tunnels)
        if tunnel and forward.via:
            _set_via(forward.via, tunnel, result)


def _shared_tunnel(container: ImportedContainer | None, tunnels: dict[str, str]) -> str:
    return tunnels.get(container.network.partition(":")[2], "") if container is not None else ""


def _set_via(inner: str, tunnel: str, result: ImportResult) -> None:
    """Set `via` of a tunnel. If the tunnel already has `via`, set `via` of its outermost tunnel instead.

    Args:
        inner: The name of the tunnel.
        tunnel: The value of `via`: the name of the new outermost tunnel.
        result: Contains the tunnels.
    """
    while "via" in result.tunnels[inner]:
        inner = result.tunnels[inner]["via"]
    if inner != tunnel:
        keys = result.tunnels[inner]
        result.tunnels[inner] = {"kind": keys.pop("kind"), "via": tunnel, **keys}


def forward_of(client: ImportedClient, result: ImportResult) -> ImportedLocalForward | None:
    """Return the local forward (`ssh -L`) to which a client connects; None if the client uses no local forward.

    Args:
        client: The client.
        result: Contains the forwards and containers. Receives a note if the client cannot reach its forward.
    """
    container = client.container
    hosts = {_linked(client)}
    if client.host in HOST_NAMES and (
        container is None or client.host not in LOOPBACK or container.network == "host"
    ):
        hosts = {HERE}
    elif client.host in LOOPBACK and container is not None:
        hosts = {*container.names, container.network.partition(":")[2]} - {""}
        hosts |= {name for each in result.containers for name in each.names
                  if each.network.partition(":")[2] in container.names}  # fmt: skip
    if client.via is not None and client.host in LOOPBACK:
        return None  # the container opens its own tunnel, so it does not use a forward of another container
    return next(
        (each for each in result.forwards if any((host, client.port) in each.names for host in hosts)), None
    ) or _forward_of_host(client, result)


def published_ports(forward: ImportedLocalForward, result: ImportResult) -> list[int] | None:
    """Return the ports of this host at which Docker publishes a local forward that listens in a container.

    Return None if the forward listens on this host, or in a container with the host's network.
    """
    for container in result.containers:
        if container.where == forward.where and container.network != "host":
            return sorted(port for host, port in forward.names if host == HERE)
    return None


def _linked(client: ImportedClient) -> str:
    """Return the host that a client connects to.

    If the host is an alias from a Docker link, return the name of the linked container.
    """
    return client.container.links.get(client.host, client.host) if client.container is not None else client.host


def _forward_of_host(client: ImportedClient, result: ImportResult) -> ImportedLocalForward | None:
    """Return the forward on this host that a client in a container tries to reach; None if there is none.

    Consider only clients that connect to a loopback address such as 127.0.0.1. In a container, this address is the
    container itself, so the client cannot have reached a forward on this host. If a forward listens on the client's
    port on this host, add a note about this mistake.
    """
    if client.container is None or client.host not in LOOPBACK:
        return None
    forward = next((each for each in result.forwards if (HERE, client.port) in each.names), None)
    if forward is not None:
        result.add_note(
            f"{client.where}: in a container, {client.host} is the container itself, so this client never reached the"
            f" forward of {forward.where}"
        )
    return forward


def needs_backend(client: ImportedClient, result: ImportResult) -> bool:
    """Return whether a client needs its own backend.

    A client needs no backend if `client.optional` is set, or if its server runs on this host or in an imported
    container.
    Exception: a volume or mount needs a backend, even if its server runs on this host.

    Args:
        client: A client that uses no local forward.
        result: Contains the containers. Receives notes for the user.
    """
    host = _linked(client)
    own = next((each for each in result.containers if host in each.names and not each.replaced), None)
    address = f"{client.host}:{client.port}"
    if client.optional:
        return False
    if own is not None:
        result.add_note(
            f"{client.where}: not imported, because {client.host} is a container in the sources ({own.where})"
        )
        return False
    if client.host not in HOST_NAMES or client.via is not None:
        return True
    if client.volume or client.folder:
        result.add_note(f"{client.where}: no source forwards {address}; pass the ssh command as another source")
        return True
    result.add_note(
        f"{client.where}: not imported, because {address} is on this host, and no source forwards this address"
    )
    return False
