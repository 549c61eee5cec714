"""The parts of an explanation."""

from dataclasses import dataclass, field

from gateway.contracts.values import IpNetwork


@dataclass(frozen=True)
class BackendFact:
    """What an explanation uses of a backend.

    Args:
        name: Its name.
        state: Its state.
        why: The reason for its state; empty: none.
        listen: Its listeners, for messages.
        allow: Source networks that may connect; empty: all.
        label: The label by which it admits containers; None: it does not use one.
    """

    name: str
    state: str
    why: str
    listen: tuple[str, ...]
    allow: tuple[IpNetwork, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Part:
    """One fact about the container.

    Args:
        part: `container`, `network of`, `label`, `grants`, `network` or `name`.
        name: Its name.
        state: Its state, in one or two words.
        why: Details.
    """

    part: str
    name: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class Reachability:
    """Whether the container reaches a backend.

    Args:
        backend: Its name.
        reached: `yes`, `no`, or `maybe` if that depends on something that the gateway does not observe.
        network: The network over which it reaches the backend; empty: none.
        why: The reason.
        remedy: What to do; empty: nothing.
    """

    backend: str
    reached: str
    network: str = ""
    why: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Explanation:
    """The explanation of one container."""

    container: str
    id: str
    parts: list[Part] = field(default_factory=list)
    backends: list[Reachability] = field(default_factory=list)

    @property
    def remedies(self) -> list[str]:
        """The remedies, without duplicates."""
        return list(dict.fromkeys(each.remedy for each in self.backends if each.remedy))
