"""The kinds of tunnel: one module each, as its `KIND`."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.contracts import Credential, Tunnel
from gateway.kinds import Kinds


@dataclass(frozen=True)
class TunnelKind:
    """A kind of tunnel.

    Args:
        name: What `kind:` says in a configuration.
        options: A frozen dataclass: the keys that the kind accepts.
        create: Makes a tunnel of the options.
        schemes: The URL schemes of its short form.
        verify: Raises `GatewayError` when the options, or files that they name, can never work.
        read_url: Gives the keys that the scheme and the rest of a URL, up to its query, stand for; None: it names
            user, host and port.
        identity: Gives of its options what must not be connected twice at once: its lanes are then one, no worker
            opens it, and a successor waits; None: it may be open as often as one likes.
        credentials: Reads the certificates that the options name. It may block, and leaves out what cannot be read.
        renewed: Files of certificates that are renewed without a new key: what is open needs no new login.
        files: Gives the files that the options' own files name, and whose change renews the tunnel. It may block.
    """

    name: str
    options: type
    create: Callable[[Any], Tunnel]
    schemes: tuple[str, ...]
    verify: Callable[[Any], None] = lambda _: None
    read_url: Callable[[str, str], dict[str, str]] | None = None
    identity: Callable[[Any], Hashable] | None = None
    credentials: Callable[[Any], list[Credential]] = lambda _: []
    renewed: Callable[[Any], set[Path]] = lambda _: set()
    files: Callable[[Any], Iterable[Path]] = lambda _: ()

    @property
    def single(self) -> bool:
        """Whether it must not be open twice at once."""
        return self.identity is not None

    def __reduce__(self) -> tuple[Callable[[str], "TunnelKind"], tuple[str]]:
        return (KINDS.__getitem__, (self.name,))


KINDS: Kinds[TunnelKind] = Kinds(__name__, __path__)
