"""Defines the settings of the ops server, and reads its tokens, keys and certificates from files."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.contracts.config_types import HostPort
from gateway.contracts.tls_server_files import TlsServerFiles
from gateway.errors import GatewayError
from gateway.ops.authorization import AccessRules, BearerTokens, normalize_hosts, read_token
from gateway.ops.tls import server_context


@dataclass(frozen=True)
class OpsSettings:
    """The settings of the ops server, from the section `ops` of the configuration.

    Args:
        listen: Address of the HTTP server.
        admin_socket: Path of the admin socket. Only the owner of the socket can connect.
        probe_listen: Address of a second HTTP server, only for health endpoints such as `/readyz`. This server
            requires no authentication, and does not use TLS. None: no second server.
        hosts: Accepted Host headers in addition to IP addresses and localhost.
        token_file: File with the token that grants access to everything.
        metrics_token_file: File with a token that grants access to `/metrics` and `/api/v1/sd` only.
        tls: Certificate and key of `listen`. None: plain HTTP.
        authenticated: Whether `listen` requires a token or a client certificate for all data except that of the
            health endpoints.
        redact: Replaces secret values in an error message.
    """

    listen: HostPort
    admin_socket: Path
    probe_listen: HostPort | None = None
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    metrics_token_file: Path | None = None
    tls: TlsServerFiles | None = None
    authenticated: bool = False
    redact: Callable[[str], str] = field(default=str, compare=False)

    @property
    def files(self) -> set[Path]:
        """The files with tokens, certificates and keys. The server reads them again when one of them changes."""
        tls = self.tls
        tls_files = [tls.cert_file, tls.key_file, tls.client_ca_file] if tls else []
        return {path for path in (self.token_file, self.metrics_token_file, *tls_files) if path is not None}

    def rules(self, *, probes: bool = False) -> AccessRules:
        """Return the access rules of a listener.

        Args:
            probes: Whether the listener is `probe_listen`, whose responses never contain error details.
        """
        own = [each.host for each in (self.listen, self.probe_listen) if each is not None]
        return AccessRules(hosts=normalize_hosts([*own, *self.hosts]), authenticate=self.authenticated or probes)


@dataclass(frozen=True)
class OpsSecrets:
    """The tokens and the TLS context that the ops server has read from files."""

    tokens: BearerTokens = field(default_factory=BearerTokens)
    tls: ssl.SSLContext | None = None


def read_secrets(settings: OpsSettings) -> OpsSecrets:
    """Read the tokens, keys and certificates from the files in `settings`. Can block.

    Raises:
        GatewayError: A file cannot be read or is not valid.
    """
    try:
        return OpsSecrets(
            tokens=BearerTokens(
                everything=read_token(settings.token_file, "ops.token_file"),
                metrics=read_token(settings.metrics_token_file, "ops.metrics_token_file"),
            ),
            tls=server_context(settings.tls) if settings.tls is not None else None,
        )
    except GatewayError as error:
        # Raise the error without its cause, which can contain a secret value.
        raise GatewayError(settings.redact(str(error))) from None
