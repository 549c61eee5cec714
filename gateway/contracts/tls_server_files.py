"""Defines the options of a TLS server of the gateway: the files of its certificate, key and client authorities."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsServerFiles:
    """The section `ops.tls`: certificate and key for TLS on `ops.listen`. The gateway reads changed files again.

    Args:
        cert_file: The certificate in PEM, followed by the intermediate certificates.
        key_file: The private key of the certificate, without a passphrase.
        client_ca_file: Certificate authorities of clients. A client with a certificate from one of these authorities
            can use all endpoints.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
