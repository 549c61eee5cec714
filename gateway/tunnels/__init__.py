"""The kinds of tunnel: one module each, which registers itself."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.contracts import Tunnel


@dataclass(frozen=True)
class TunnelKind:
    """A kind of tunnel.

    Args:
        name: What `kind:` says in a configuration.
        options: A frozen dataclass: the keys that the kind accepts.
        create: Makes a tunnel of the options.
        scheme: The URL scheme of its short form.
        default_port: Used where a URL names no port.
    """

    name: str
    options: type
    create: Callable[[Any], Tunnel]
    scheme: str
    default_port: int
    verify: Callable[[Any], None] = lambda _: None
    """Raises `GatewayError` when the options, or files that they name, can never work."""

    def __reduce__(self) -> tuple[Callable[[str], "TunnelKind"], tuple[str]]:
        return (_named, (self.name,))


KINDS: dict[str, TunnelKind] = {}


def _named(name: str) -> TunnelKind:
    """A kind sent from one process to another."""
    return load()[name]


def register(kind: TunnelKind) -> None:
    """Make `kind` known to the configuration."""
    KINDS[kind.name] = kind


def load() -> dict[str, TunnelKind]:
    """Import every module of this package, so that its kinds are registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return KINDS
