"""What the readers of sources find: containers, volumes, forwards, and clients of remote services."""

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
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - for the containers of a network
LOOPBACK = frozenset({HERE, "127.0.0.1", "::1"})


def home(path: str) -> str:
    """Return a path with the home directory as `${HOME}`."""
    return re.sub(r"^(~|%d|\$HOME)(?=/|$)", "${HOME}", path.strip('"'))


def names_on_host(port: int) -> set[tuple[str, int]]:
    """Return the names of a port on this host."""
    return {(HERE, port)}


@dataclass(frozen=True)
class Context:
    """Where an ssh command runs.

    Args:
        where: How notes name it.
        names: Returns the names and ports by which clients reach a port of a listener.
        path: Returns the path on the host of a path that the command names.
        in_container: Whether it runs in a container.
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
        where: How notes name it.
        name: The name by which other containers reach it.
        source: The source that defines it.
        image: The image.
        command: Entrypoint and command, as words.
        environment: The environment variables.
        mounts: The mounts.
        network: The network mode: `host`, `service:NAME`, `container:NAME`; empty for networks.
        aliases: Further names by which other containers reach it.
        published: The ports that are published on the host: container port and host port.
        parts: What the definition consists of, as notes name it. A part that the import uses is removed.
        used: The parts that the import used.
        replaced: Whether the gateway replaces the container.
        tunnel: The tunnel that replaces a VPN container; empty if it is not one.
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
        """Whether it is a service of a Compose file."""
        return self.where.endswith(f"services.{self.name}")

    @property
    def names(self) -> set[str]:
        """The names by which other containers reach it."""
        return {self.name, *self.aliases} - {""}

    def use(self, *keys: str) -> None:
        """Mark parts as used."""
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
        where: How notes name it.
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
    """Something that uses a remote service: a volume, or a container with the address of a database.

    Args:
        where: How notes name it.
        name: The name of a new backend.
        kind: The kind of the backend; empty: it follows from the port.
        host: The host that the client connects to.
        port: The port that the client connects to.
        more: Further targets of the backend, as `host:port`.
        keys: Further keys of the backend.
        via: The tunnel that the client itself opens; None: none.
        container: The container; None: a process or the kernel of this host.
        login: The variables with the address and with the login of the check.
        variables: The variables with host and port, for the new Compose file.
        volume: The name of the volume; empty if it is not one.
        compose_volume: Whether it is a volume of a Compose file.
        folder: The directory where this host mounts it; empty if it does not.
        mount_options: The mount options of this host.
        optional: Import it only if it uses a forward.
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
        """Whether it is a service or a volume of a Compose file."""
        return self.container.is_service if self.container is not None else self.compose_volume
