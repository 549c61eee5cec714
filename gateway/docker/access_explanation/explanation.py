"""Defines `Explanation`: which backends a container can reach, and why."""

from dataclasses import dataclass, field
from typing import Literal

from gateway.contracts.config_types import IpNetwork


@dataclass(frozen=True)
class ExplainedBackend:
    """A backend, with the properties that an explanation uses.

    Args:
        name: The backend's name.
        state: The backend's state.
        why: The reason for the state; empty if there is none.
        listen: The addresses of the backend's listeners.
        allow: The source networks that are allowed to connect; empty if all are allowed.
        label: The label by which the backend admits containers; None if it does not use a label.
    """

    name: str
    state: str
    why: str
    listen: tuple[str, ...]
    allow: tuple[IpNetwork, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class AccessCondition:
    """One condition for a container's access to backends, such as one of its labels or networks.

    Args:
        part: The type: `container`, `network of`, `label`, `grants`, `network` or `name`. A condition of type
            `network of` is about the container whose network the explained container uses. The type `name` means a
            name conflict.
        name: For a label: the label with its value; empty if the label is invalid. For grants: `docker.grants`. For a
            name conflict: the conflicting name. Otherwise, the name of the container or network.
        state: The state of the condition, in one or two words.
        why: Details.
    """

    part: str
    name: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class Reachability:
    """Whether the explained container reaches one backend, and why.

    Args:
        backend: The backend's name.
        reached: `yes`, `no`, or `maybe` if the answer depends on something that the gateway does not observe.
        network: The network over which the container reaches the backend; empty if there is none.
        why: The reason for `reached`.
        remedy: What to do; empty if there is nothing to do.
    """

    backend: str
    reached: Literal["yes", "no", "maybe"]
    network: str = ""
    why: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why one container can or cannot reach backends."""

    container: str
    id: str
    parts: list[AccessCondition] = field(default_factory=list)
    backends: list[Reachability] = field(default_factory=list)

    @property
    def remedies(self) -> list[str]:
        """The remedies of all items in `backends`, without duplicates."""
        return list(dict.fromkeys(each.remedy for each in self.backends if each.remedy))
