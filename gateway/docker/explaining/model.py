"""What there is to say about one container: plain values."""

import ipaddress
from dataclasses import dataclass, field

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class BackendFact:
    """What counts of a backend.

    Args:
        name: Its name.
        state: Its state.
        why: The reason of its state; empty: there is none.
        listen: Its listeners, for people.
        allow: Source networks that may connect; empty: all.
        label: The label by which it admits containers; None: it asks for none.
    """

    name: str
    state: str
    why: str
    listen: tuple[str, ...]
    allow: tuple[Network, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Part:
    """One fact about the container.

    Args:
        part: `container`, `network of`, `label`, `grants`, `network` or `name`.
        name: Which.
        state: How it stands, in a word.
        why: More about it.
    """

    part: str
    name: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class Reachability:
    """One backend, from the container.

    Args:
        backend: Its name.
        reached: `yes`, `no`, or `maybe` where that is decided outside of what the gateway sees.
        network: The network through which; empty: none.
        why: Why, or why not.
        remedy: What to do about it; empty: nothing.
    """

    backend: str
    reached: str
    network: str = ""
    why: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Explanation:
    """One container."""

    container: str
    id: str
    parts: list[Part] = field(default_factory=list)
    backends: list[Reachability] = field(default_factory=list)

    @property
    def remedies(self) -> list[str]:
        """What to do, each once."""
        return list(dict.fromkeys(each.remedy for each in self.backends if each.remedy))
