"""What answers at the Docker API: Docker Engine, or Podman, which answers some requests in its own way. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flavour:
    """An implementation of the Docker API.

    Args:
        name: For messages.
        oldest: The first API version that is supported.
        release: What has it, for messages.
        has_swarm: Whether it has swarms, and with them overlay networks and services.
        lists_aliases: Whether its list of containers gives aliases, and an inspection is needed for the network mode;
            with Docker it is the other way round.
        inspection: What goes before the path of an inspection that gives a container's capabilities.
        leaves_failed_connects: Whether a container counts as connected to a network after that failed.
        command: Its command line client, for messages.
        way_out: Its own network with a way out, for messages.
    """

    name: str
    oldest: tuple[int, int]
    release: str
    has_swarm: bool = True
    lists_aliases: bool = False
    inspection: str = ""
    leaves_failed_connects: bool = False
    command: str = "docker"
    way_out: str = "bridge"

    def left(self, event: Mapping[str, Any]) -> str:
        """The ID of the container that left a network.

        Args:
            event: A `disconnect` of a network.
        """
        actor = event.get("Actor") or {}
        # Podman's actor is the container; Docker's is the network.
        container = actor.get("ID") if self is PODMAN else (actor.get("Attributes") or {}).get("container")
        return str(container or "")


DOCKER = Flavour("Docker", (1, 44), "Docker Engine 25")
PODMAN = Flavour(
    "Podman",
    (1, 41),
    "Podman 4.2",
    has_swarm=False,
    lists_aliases=True,
    inspection="libpod/",
    leaves_failed_connects=True,
    command="podman",
    way_out="podman",
)
_COMPONENT = "Podman Engine"


def flavour(version: Mapping[str, Any]) -> Flavour:
    """The implementation that answered.

    Args:
        version: Its answer to `/version`.
    """
    components = version.get("Components") or ()
    return PODMAN if any(each.get("Name") == _COMPONENT for each in components) else DOCKER
