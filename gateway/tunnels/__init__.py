"""Defines the kinds of tunnel. Each module of this package, such as `ssh`, defines one kind (`KIND`)."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.contracts.certificate import MonitoredCertificate
from gateway.contracts.config_types import HostPort
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.tunnel import Tunnel
from gateway.contracts.tunnel_destinations import TunnelDestinations
from gateway.facts import FactDefinition
from gateway.kind_registry import KindRegistry
from gateway.remedies import TUNNEL_REMEDIES


class AuthorizedKeysRenderer(Protocol):
    """A function that renders lines for files on the tunnels' servers, such as authorized_keys."""

    def __call__(self, tunnels: Sequence[TunnelDestinations], sources: Sequence[str]) -> list[str]:
        """Return lines to add to files on the tunnels' servers, and comments that name the files.

        Args:
            tunnels: What the gateway dials through each tunnel of this kind.
            sources: Addresses, networks and patterns from which the gateway can log in; empty to permit all.

        Raises:
            GatewayError: The lines cannot be rendered.
        """


@dataclass(frozen=True)
class TunnelKind:
    """A kind of tunnel, such as `ssh`: its options, and the functions that create and describe its tunnels.

    Args:
        name: The value of `kind` in a configuration.
        options: A frozen dataclass with the keys that the kind accepts. A field that can contain a secret must have
            the type `Secret` or the metadata `SENSITIVE`.
        create: Receives the options, and returns a new tunnel.
        schemes: The schemes of the URLs that can configure tunnels of this kind.
        servers: Receives the options, and returns the servers that the tunnel dials over TCP, through `via` if set.
            Reads the files that the options refer to, and can block. Raises `GatewayError` if a file is not valid.
        udp_servers: Receives the options, and returns the servers that the tunnel dials over UDP. An outer tunnel
            (`via`) cannot carry UDP. Reads files and raises errors like `servers`.
        refuses_via: Receives the options, and returns the reason why the tunnel cannot run inside another tunnel;
            None if it can.
        server_dials_targets: Whether the tunnel's server dials the targets. If so, the source address of
            connections to the targets is an address of this server.
        aliases: Other names of the kind. If `kind` in the configuration is an alias, the error suggests `name`.
        encrypts: Whether the traffic through the tunnel is encrypted.
        needs_capabilities: Whether the tunnel needs Linux capabilities. If so, restricted pods cannot open the
            tunnel.
        facts: The fields of the link's status that the status page and the metrics contain.
        render_authorized_keys: Renders the output of `gateway render authorized-keys`; None if servers of this kind
            have no authorized_keys file.
        insecure_settings: Receives the options, and whether the network path to the tunnel's server is unencrypted.
            Yields the insecure settings. Reads no file contents, only the permissions of program files.
        advice: Receives the options, and yields warnings about settings that are valid but probably unintended. Each
            warning begins with the configuration key. Reads no files.
        verify: Checks the options and the files to which the options refer. Raises `GatewayError` if the tunnel
            cannot work until the operator changes an option or a file.
        read_url: Receives the scheme of a URL, and the part after `://` without the query. Returns the configuration
            keys. If `read_url` is None, this part must have the form `user@host:port`.
        identity: Receives the options, and returns the identity, such as a key, with which the tunnel connects. Set
            only if servers permit only one connection with the same identity at a time. The gateway then opens one
            tunnel for all traffic classes. When the tunnel's configuration changes, the gateway closes the old tunnel
            before it opens the new one.
        credentials: Receives the options, and returns the certificates in the files to which the options refer.
            Skips unreadable files. Can block.
        renewed: Receives the options, and returns the certificate files that an operator can renew with the same key.
            After such a renewal, open connections continue without a new login.
        init_keys: The optional keys that `gateway init` asks for, in addition to the required ones. A tuple contains
            alternatives: when the user has entered one of them, the command does not ask for the others.
        files: Receives the options, and returns the files that the tunnel's own configuration file refers to. If one
            of them changes, the gateway calls `TunnelOpenResult.renew`. Can block.
        import_file: Receives the name and the content of a file. Returns the configuration keys of a tunnel if this
            is a configuration file of this kind; otherwise, None. `gateway import` calls this function.
        keys_in_container: Configuration keys that `gateway import --diff` adds if the gateway's container has a
            separate network namespace.
        uses_native_engine: Receives the options, and returns whether they permit the native engine. Set only if the
            kind has an option for this.
        remedies: The remedies of this kind, by the reason for the failure. They override
            `gateway.remedies.TUNNEL_REMEDIES`.
    """

    name: str
    options: type
    create: Callable[[Any], Tunnel]
    schemes: tuple[str, ...]
    servers: Callable[[Any], Iterable[HostPort]]
    udp_servers: Callable[[Any], Iterable[HostPort]] = lambda _: ()
    refuses_via: Callable[[Any], str | None] = lambda _: None
    server_dials_targets: bool = False
    aliases: tuple[str, ...] = ()
    encrypts: bool = False
    needs_capabilities: bool = False
    facts: tuple[FactDefinition, ...] = ()
    render_authorized_keys: AuthorizedKeysRenderer | None = None
    insecure_settings: Callable[[Any, bool], Iterator[InsecureSetting]] = lambda _options, _plain: iter(())
    advice: Callable[[Any], Iterator[str]] = lambda _: iter(())
    verify: Callable[[Any], None] = lambda _: None
    read_url: Callable[[str, str], dict[str, str]] | None = None
    identity: Callable[[Any], Hashable] | None = None
    credentials: Callable[[Any], list[MonitoredCertificate]] = lambda _: []
    renewed: Callable[[Any], set[Path]] = lambda _: set()
    init_keys: tuple[str | tuple[str, ...], ...] = ()
    files: Callable[[Any], Iterable[Path]] = lambda _: ()
    import_file: Callable[[str, str], dict[str, str] | None] = lambda _name, _text: None
    keys_in_container: Mapping[str, str] = field(default_factory=dict)
    uses_native_engine: Callable[[Any], bool] | None = None
    remedies: Mapping[str, str] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether servers of this kind permit only one connection with the same identity at a time."""
        return self.identity is not None


KINDS: KindRegistry[TunnelKind] = KindRegistry(__name__, __path__)


def tunnel_remedy(kind: str, reason: str | None) -> str:
    """Return the remedy for a failed tunnel, as an instruction to the operator; empty if there is none.

    Args:
        kind: The name of the tunnel's kind.
        reason: The reason for the failure; None if it is unknown.
    """
    remedies = {**TUNNEL_REMEDIES, **(KINDS[kind].remedies if kind in KINDS else {})}
    return remedies.get(reason or "", "")
