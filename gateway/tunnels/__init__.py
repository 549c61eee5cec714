"""The kinds of tunnel. Each module defines one kind as `KIND`."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.contracts.security import Credential, InsecureSetting
from gateway.contracts.tunnel import Tunnel
from gateway.contracts.values import Endpoint
from gateway.facts import Fact
from gateway.kinds import Kinds


class RenderAuthorizedKeys(Protocol):
    """Renders the lines with which a server permits a tunnel."""

    def __call__(
        self, name: str, options: Any, targets: Sequence[str], sources: Sequence[str], *, unix_sockets: bool
    ) -> list[str]:
        """Return the lines to paste on the server, and comments that name the files for these lines.

        Args:
            name: The tunnel's name.
            options: The tunnel's options.
            targets: Each `host:port` that the tunnel dials.
            sources: Addresses, networks and patterns from which the tunnel may log in; empty for any.
            unix_sockets: Whether the tunnel connects to a unix socket on the server.

        Raises:
            GatewayError: The lines cannot be rendered.
        """


@dataclass(frozen=True)
class TunnelKind:
    """A kind of tunnel, with all properties that other packages need.

    Args:
        name: The value of `kind` in a configuration.
        options: A frozen dataclass with the keys that the kind accepts.
        create: Creates a tunnel from the options.
        schemes: The URL schemes of the short form.
        servers: Returns, given the options, the servers that the tunnel dials over TCP, through `via` if it is set.
            Reads the files that the options name, may block, and raises `GatewayError` if they are not valid.
        udp_servers: As `servers`, for the servers that the tunnel dials over UDP, which no `via` can carry.
        server_dials_targets: Whether the tunnel's server dials the targets, and they see its address as the client.
        aliases: Other names of the tunnel, to suggest `name` for.
        encrypts: Whether the traffic through the tunnel is encrypted.
        needs_capabilities: Whether the tunnel needs Linux capabilities, so that restricted pods cannot open it.
        facts: The fields of the link's status that the status page shows and that have metrics, by key.
        render_authorized_keys: Renders what `gateway render authorized-keys` prints. None: the server has no such
            file.
        insecure_settings: Yields the insecure settings in the options, given whether the path to the tunnel's server
            is unencrypted.
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
    servers: Callable[[Any], Iterable[Endpoint]]
    udp_servers: Callable[[Any], Iterable[Endpoint]] = lambda _: ()
    server_dials_targets: bool = False
    aliases: tuple[str, ...] = ()
    encrypts: bool = False
    needs_capabilities: bool = False
    facts: tuple[Fact, ...] = ()
    render_authorized_keys: RenderAuthorizedKeys | None = None
    insecure_settings: Callable[[Any, bool], Iterator[InsecureSetting]] = lambda _options, _plain: iter(())
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
