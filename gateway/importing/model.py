"""The types of what sources contain: containers, volumes, forwards, and clients of remote services."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HERE = "localhost"
"""The name of this host in `ImportedForward.names` and `ImportedClient.host`."""
HOST_NAMES = frozenset({
    HERE, "127.0.0.1", "::1", "0.0.0.0", "::", "host.docker.internal", "host.containers.internal", "172.17.0.1",  # noqa: S104
    "gateway.docker.internal", "docker.for.mac.localhost",
})  # fmt: skip
"""Names and addresses of this host, as processes and containers use them."""
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - containers of a network must reach it
LOOPBACK = frozenset({HERE, "127.0.0.1", "::1"})


def home(path: str) -> str:
    """Return a path in which `${HOME}` replaces the home directory."""
    return re.sub(r"^(~|%d|\$HOME)(?=/|$)", "${HOME}", path.strip('"'))


def names_on_host(port: int) -> set[tuple[str, int]]:
    """Return the name of this host with a port."""
    return {(HERE, port)}


@dataclass(frozen=True)
class Context:
    """Where an ssh command runs.

    Args:
        where: How notes name the command.
        names: Returns the names and ports by which clients reach the port of a listener.
        path: Converts a path in the command to the path on the host.
        in_container: Whether the command runs in a container.
    """

    where: str
    names: Callable[[int], set[tuple[str, int]]] = names_on_host
    path: Callable[[str], str] = str
    in_container: bool = False


@dataclass(frozen=True)
class ImportedMount:
    """A file system in a container.

    Args:
        source: Path on the host or name of a volume; empty for an anonymous volume.
        target: Path in the container.
        read_only: Whether the container cannot write to it.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass
class ImportedContainer:
    """A service of a Compose file, or a container that a command runs.

    Args:
        where: How notes name the container.
        name: The name by which other containers reach the container.
        source: The source that defines the container.
        image: The image.
        command: Entrypoint and command, as words.
        environment: The environment variables.
        mounts: The mounts.
        network: The network mode: `host`, `service:NAME`, `container:NAME`; empty for networks.
        aliases: Further names by which other containers reach the container.
        published: The ports that are published on the host: container port and host port.
        parts: The parts of the definition, as notes name them. The import removes the parts that it uses.
        used: The parts that the import used.
        replaced: Whether the gateway replaces the container.
        tunnel: The tunnel that replaces the container if it is a VPN container; otherwise empty.
    """

    where: str
    name: str
    source: str = ""
    image: str = ""
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[ImportedMount] = field(default_factory=list)
    network: str = ""
    aliases: list[str] = field(default_factory=list)
    published: list[tuple[int, int]] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    replaced: bool = False
    tunnel: str = ""

    @property
    def is_service(self) -> bool:
        """Whether the container is a service of a Compose file."""
        return self.where.endswith(f"services.{self.name}")

    @property
    def names(self) -> set[str]:
        """The names by which other containers reach the container."""
        return {self.name, *self.aliases} - {""}

    def use(self, *keys: str) -> None:
        """Mark parts of the definition as used."""
        for key in keys:
            if self.parts.pop(key, None) is not None:
                self.used.append(key)

    def variable(self, *names: str) -> str:
        """Return the value of the first variable that is set, and mark it as used; empty if none is set."""
        for name in names:
            if self.environment.get(name):
                self.use(f"environment.{name}")
                return self.environment[name]
        return ""

    def host_path(self, path: str) -> str | None:
        """Return the path on the host of a path in the container, and mark the mount as used; None if not mounted."""
        for mount in self.mounts:
            if path == mount.target or path.startswith(mount.target.rstrip("/") + "/"):
                self.use(f"mount.{mount.target}")
                rest = path[len(mount.target.rstrip("/")) :]
                return home(mount.source.rstrip("/") + rest if rest else mount.source)
        return None


@dataclass
class ImportedForward:
    """A local forward.

    Args:
        where: How notes name the forward.
        via: The name of the tunnel.
        listen: The listener: `host:port` or the path of a unix socket.
        target: The target, as `host:port`.
        names: The names and ports by which clients reach the listener.
        backend: The name of the backend, once there is one.
    """

    where: str
    via: str | None
    listen: str
    target: str
    names: set[tuple[str, int]] = field(default_factory=set)
    backend: str = ""


@dataclass
class ImportedClient:
    """A client of a remote service: a volume, or a container with the address of a database.

    Args:
        where: How notes name the client.
        name: The name of a new backend for the client.
        kind: The kind of the backend; empty: take it from the port.
        host: The host that the client connects to.
        port: The port that the client connects to.
        more: Further targets of the backend, as `host:port`.
        keys: Further keys of the backend.
        via: The tunnel that the client itself opens; None: none.
        container: The container that is the client; None: a process or the kernel of this host.
        login: The variables with the address and with the login of the check.
        variables: The variables with host and port, for the new Compose file.
        volume: The name of the volume; empty if the client is not a volume.
        compose_volume: Whether the client is a volume of a Compose file.
        folder: The directory where this host mounts the file system; empty if the host does not mount it.
        mount_options: The mount options of this host.
        optional: Whether to import the client only if it uses a forward.
        notes: Notes about the backend.
        backend: The name of the backend, once there is one.
    """

    where: str
    name: str
    kind: str
    host: str
    port: int
    keys: dict[str, Any] = field(default_factory=dict)
    via: str | None = None
    container: ImportedContainer | None = None
    login: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    volume: str = ""
    compose_volume: bool = False
    folder: str = ""
    mount_options: str = ""
    optional: bool = False
    notes: tuple[str, ...] = ()
    backend: str = ""
    more: tuple[str, ...] = ()

    @property
    def in_compose_file(self) -> bool:
        """Whether the client is a service or a volume of a Compose file."""
        return self.container.is_service if self.container is not None else self.compose_volume
