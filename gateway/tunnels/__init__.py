"""The kinds of tunnel: each is the `KIND` of one module."""

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
        name: The value of `kind` in a configuration.
        options: A frozen dataclass with the keys that the kind accepts.
        create: Creates a tunnel from the options.
        schemes: The URL schemes of the short form.
        verify: Checks the options and the files that they name. Raises `GatewayError` if they can never work.
        read_url: Returns the keys in a URL, given its scheme and its rest without the query. None: the URL contains
            user, host and port.
        identity: Returns an identity from the options, of which only one connection may exist at a time. Then the
            tunnel has a single lane, no worker opens it, and a changed tunnel waits for its predecessor to close.
            None: any number of connections is allowed.
        credentials: Reads the certificates that the options name, and skips those that cannot be read. May block.
        renewed: Returns the certificate files that are renewed without a new key, so that open connections need no
            new login.
        files: Returns the files that the files in the options name. A change of one of them renews the tunnel. May
            block.
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
        """Whether only one connection may exist at a time."""
        return self.identity is not None

    def __reduce__(self) -> tuple[Callable[[str], "TunnelKind"], tuple[str]]:
        return (KINDS.__getitem__, (self.name,))


KINDS: Kinds[TunnelKind] = Kinds(__name__, __path__)
