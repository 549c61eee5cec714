"""Defines the containers, forwards and clients that an import finds in files and commands."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HERE = "localhost"
"""The name of this host (not of a container) in `ImportedLocalForward.names` and `ImportedClient.host`."""
HOST_NAMES = frozenset({
    HERE, "127.0.0.1", "::1", "0.0.0.0", "::", "host.docker.internal", "host.containers.internal", "172.17.0.1",  # noqa: S104
    "gateway.docker.internal", "docker.for.mac.localhost",
})  # fmt: skip
"""Names and addresses that processes and containers use for this host."""
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - containers on a Docker network must reach the listener
LOOPBACK = frozenset({HERE, "127.0.0.1", "::1"})


def home(path: str) -> str:
    """Return a path with a leading `~`, `%d` or `$HOME` replaced by `${HOME}`."""
    return re.sub(r"^(~|%d|\$HOME)(?=/|$)", "${HOME}", path.strip('"'))


def names_on_host(port: int) -> set[tuple[str, int]]:
    """Return the value of `ImportedLocalForward.names` for a listener that is reachable only from this host."""
    return {(HERE, port)}


@dataclass(frozen=True)
class SshCommandContext:
    """Describes where an imported ssh command runs: on this host or in a container.

    Args:
        where: The name of the command in the notes for the user.
        names: A function that returns the host names and ports at which clients reach the listener on a given port.
        path: A function that converts a path in the command to the path on the host.
        in_container: Whether the command runs in a container.
    """

    where: str
    names: Callable[[int], set[tuple[str, int]]] = names_on_host
    path: Callable[[str], str] = str
    in_container: bool = False


@dataclass(frozen=True)
class ImportedMount:
    """A mount of a container.

    Args:
        source: The path on the host or the name of a volume; empty for an anonymous volume.
        target: The path in the container.
        read_only: Whether the mount is read-only.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass
class ImportedContainer:
    """A container that an imported Compose file or `docker` command defines, or a process that uses an env file.

    Args:
        where: The name of the container in the notes for the user.
        name: The host name at which other containers reach the container.
        image: The image.
        command: The words of the entrypoint and the command.
        environment: The environment variables.
        references: The variables from `.env` files, to which the Compose file can refer.
        mounts: The mounts.
        network: The network mode: `host`, `service:NAME` or `container:NAME`; empty for Docker networks.
        aliases: Additional host names at which other containers reach the container.
        links: Maps the alias of each Docker link to the name of the linked container.
        published: The published ports: pairs of container port and host port.
        parts: The parts of the container's definition that the import has not used, each with its text for notes.
        used: The parts of the container's definition that the import has used.
        replaced: Whether the gateway replaces the container.
        tunnel: The name of the tunnel that replaces a VPN container; empty for other containers.
    """

    where: str
    name: str
    image: str = ""
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    mounts: list[ImportedMount] = field(default_factory=list)
    network: str = ""
    aliases: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
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
        """The host names at which other containers reach the container."""
        return {self.name, *self.aliases} - {""}

    def add_link(self, text: str) -> None:
        """Add a Docker link, in the form `NAME` or `NAME:ALIAS`."""
        name, _, alias = text.partition(":")
        self.links[alias or name] = name
        self.parts[f"link.{alias or name}"] = f"link {text}"

    def use(self, *keys: str) -> None:
        """Mark parts of the container's definition as used: the notes list only unused parts."""
        for key in keys:
            if self.parts.pop(key, None) is not None:
                self.used.append(key)

    @property
    def port_parts(self) -> list[str]:
        """The keys of `parts` that represent published ports."""
        return [key for key in self.parts if key == "ports" or key.startswith("publish.")]

    def variable(self, *names: str) -> str:
        """Return the value of the first variable in `names` that is set, and mark this variable as used.

        Return an empty string if none is set.
        """
        for name in names:
            if self.environment.get(name):
                self.use(f"environment.{name}")
                return self.environment[name]
        return ""

    def host_path(self, path: str) -> str | None:
        """Convert a path in the container to a path on the host, and mark the mount that contains the path as used.

        Return None if the path is not on a mount.
        """
        for mount in self.mounts:
            if path == mount.target or path.startswith(mount.target.rstrip("/") + "/"):
                self.use(f"mount.{mount.target}")
                rest = path[len(mount.target.rstrip("/")) :]
                return home(mount.source.rstrip("/") + rest if rest else mount.source)
        return None


@dataclass
class ImportedLocalForward:
    """A local forward (ssh `-L`) in an imported command or ssh_config file.

    Args:
        where: The name of the forward in the notes for the user.
        via: The name of the tunnel.
        listen: The listener: `host:port` or the path of a unix socket.
        target: The target, as `host:port`.
        names: The names and ports at which clients reach the listener.
        backend: The name of the backend; empty until the import creates the backend.
    """

    where: str
    via: str | None
    listen: str
    target: str
    names: set[tuple[str, int]] = field(default_factory=set)
    backend: str = ""


@dataclass
class ImportedClient:
    """A client of a remote database or file server: a container, a process, a volume, or a mount of this host.

    Args:
        where: The name of the client in the notes for the user.
        name: The name of a new backend for the client.
        kind: The kind of the backend; empty to derive the kind from the port.
        host: The host that the client connects to.
        port: The port that the client connects to.
        more: Additional targets of the backend, as `host:port`.
        keys: Additional configuration keys of the backend.
        via: The name of the client's tunnel: a tunnel that the client opens, or a VPN whose network the client
            shares. None if the client has no tunnel.
        container: The container or process; None if the client is a volume or a mount.
        login: The names of all variables that describe the database or the login, including `variables`.
        variables: The names of the variables that contain host and port. The Compose diff changes their values.
        volume: The name of the volume; empty if the client is not a volume.
        volume_key: The key of the volume in its Compose file; empty if the client is not a volume of a Compose file.
        folder: The directory on which this host mounts the file system; empty if this host does not mount it.
        mount_options: The options with which this host mounts the file system.
        optional: Whether to ignore the client if it uses no local forward.
        notes: Notes about the backend.
        backend: The name of the backend; empty until the import creates the backend.
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
    volume_key: str = ""
    folder: str = ""
    mount_options: str = ""
    optional: bool = False
    notes: tuple[str, ...] = ()
    backend: str = ""
    more: tuple[str, ...] = ()

    @property
    def in_compose_file(self) -> bool:
        """Whether the client is a service or a volume of a Compose file."""
        return self.container.is_service if self.container is not None else bool(self.volume_key)
