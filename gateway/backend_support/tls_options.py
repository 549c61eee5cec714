"""Defines the TLS options of checks (`check.tls`), and creates TLS contexts from them."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.errors import FailureReason, GatewayError, UnusableTargetError
from gateway.tls_client_context import TlsClientFiles


@dataclass(frozen=True)
class HealthCheckTlsOptions:
    """The TLS settings of a check.

    Args:
        mode: `off`: no TLS. `require`: TLS without verification of the server. `verify`: TLS with verification of the
            server's certificate and name.
        ca_file: Certificate authorities to trust, in PEM. Default: those of the system.
        server_name: The name in the server's certificate, if it differs from the host of the target.
    """

    mode: Literal["off", "require", "verify"] = "off"
    ca_file: Path | None = None
    server_name: str | None = None


def context(tls: HealthCheckTlsOptions, key: str = "check.tls") -> ssl.SSLContext | None:
    """Return an SSL context for connections to a server; None if TLS is off.

    Args:
        tls: The settings.
        key: The configuration key of the settings, for messages.

    Raises:
        UnusableTargetError: The CA file cannot be used.
    """
    if tls.mode == "off":
        return None
    try:
        return TlsClientFiles(tls.ca_file).context(verified=tls.mode == "verify")
    except GatewayError as error:
        raise UnusableTargetError(FailureReason.TLS, f"{key}.{error}") from error


def describe_tls_error(error: ssl.SSLError, key: str = "check.tls") -> str:
    """Return a message with the cause and the remedy of a failed TLS handshake.

    Args:
        error: The error of the handshake.
        key: The configuration key of the TLS settings, for the remedy.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = f"set {key}.ca_file to the authority that signed the certificate"
        if "mismatch" in error.verify_message:
            remedy = f"set {key}.server_name to a name in the certificate"
        elif "expired" in error.verify_message:
            remedy = "renew the certificate of the server"
        return f"the server's certificate is not trusted ({error.verify_message}): {remedy}"
    if error.reason == "WRONG_VERSION_NUMBER":
        return f"the server does not use TLS on this port: correct the port, or set {key}.mode: off"
    why = (error.reason or str(error)).replace("_", " ").lower()
    return f"the TLS handshake failed ({why}): check that the server supports TLS 1.2 or later on this port"


def verify(options: object, check: Any) -> None:
    """Verify that the CA file can be used; see `BackendKind.verify`.

    Args:
        options: Not used.
        check: The options of a check, with a field `tls`.

    Raises:
        UnusableTargetError: The CA file cannot be used.
    """
    del options
    context(check.tls)
