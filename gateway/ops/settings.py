"""Where the ops server listens and what it asks of its clients, with the secrets that it reads from files."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.contracts import Endpoint
from gateway.errors import GatewayError
from gateway.ops.access import Rules, Tokens, hosts_of, read_token
from gateway.ops.tls import TlsFiles, context


@dataclass(frozen=True)
class Settings:
    """The section `ops` of the configuration.

    Args:
        listen: Of everything that is read.
        admin_socket: Of commands; only its owner can use it.
        probe_listen: Of health alone, without authentication and TLS; None: there is none.
        hosts: Further Host headers that are answered.
        token_file: Opens everything.
        metrics_token_file: Opens `/metrics` only.
        tls: Of `listen`; None: plain HTTP.
        authenticated: Whether a client of `listen` needs a token or a certificate for more than probes.
        shown: Gives an error as it may be shown.
    """

    listen: Endpoint
    admin_socket: Path
    probe_listen: Endpoint | None = None
    hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    metrics_token_file: Path | None = None
    tls: TlsFiles | None = None
    authenticated: bool = False
    shown: Callable[[str], str] = field(default=str, compare=False)

    @property
    def files(self) -> set[Path]:
        """The files that are read again when they change."""
        tls = self.tls
        of_tls = [tls.cert_file, tls.key_file, tls.client_ca_file] if tls else []
        return {path for path in (self.token_file, self.metrics_token_file, *of_tls) if path is not None}

    def rules(self, *, probes: bool = False) -> Rules:
        """What `listen`, or `probe_listen`, asks of its clients: the latter shows details to none."""
        own = [each.host for each in (self.listen, self.probe_listen) if each is not None]
        return Rules(hosts=hosts_of([*own, *self.hosts]), authenticate=self.authenticated or probes)


@dataclass(frozen=True)
class Secrets:
    """What the files held when they were read last."""

    tokens: Tokens = field(default_factory=Tokens)
    tls: ssl.SSLContext | None = None


def read_secrets(settings: Settings) -> Secrets:
    """Read every file; may block.

    Raises:
        GatewayError: One cannot be used.
    """
    try:
        return Secrets(
            tokens=Tokens(
                everything=read_token(settings.token_file, "ops.token_file"),
                metrics=read_token(settings.metrics_token_file, "ops.metrics_token_file"),
            ),
            tls=context(settings.tls) if settings.tls is not None else None,
        )
    except GatewayError as error:
        raise GatewayError(settings.shown(str(error))) from None  # the cause has the value
