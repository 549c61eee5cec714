"""TLS towards a database, as every database kind configures it."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.errors import ProbeError, Reason
from gateway.tls_client import client_context


@dataclass(frozen=True)
class Tls:
    """How the check talks TLS to a target.

    Args:
        mode: `off`; `require`: encrypted, whoever answers; `verify`: encrypted, and the certificate is checked
            against the target's name.
        ca_file: Certificate authorities to trust in PEM; absent: the system's.
        server_name: The name that the certificate must carry, where it is not the target's host.
    """

    mode: Literal["off", "require", "verify"] = "off"
    ca_file: Path | None = None
    server_name: str | None = None


def context(tls: Tls) -> ssl.SSLContext | None:
    """A client context for `tls`, or None when it is off.

    Raises:
        ProbeError: The CA file cannot be used.
    """
    if tls.mode == "off":
        return None
    try:
        made = client_context(tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ProbeError(Reason.TLS, f"check.tls.ca_file: {tls.ca_file}: {error.strerror or error}") from error
    if tls.mode == "require":
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def verify(options: object, check: Any) -> None:
    """Raises `ProbeError` when the CA file cannot be used; for `BackendKind.verify`."""
    del options
    context(check.tls)
