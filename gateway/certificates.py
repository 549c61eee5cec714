"""How long X.509 certificates are valid (RFC 5280, section 4.1.2.5)."""

import base64
import os
import re
import stat
from pathlib import Path

from gateway.contracts import Credential, Validity

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL)

_LARGEST = 4 << 20
"""Bytes of a file; the system's authorities have a quarter of a megabyte."""


def of_der(data: bytes) -> Validity | None:
    """How long one certificate is valid; None: it is not a certificate."""
    from cryptography import x509  # noqa: PLC0415 - only where there are certificates

    try:
        certificate = x509.load_der_x509_certificate(data)
        return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
    except ValueError:
        return None


def of_pem(data: bytes) -> list[Validity]:
    """How long each certificate in a file's content is valid; those that cannot be read are left out."""
    found = []
    for body in _PEM.findall(data):
        try:
            found.append(of_der(base64.b64decode(body)))
        except ValueError:
            continue
    return [each for each in found if each is not None]


def of_file(path: Path | None) -> list[Validity]:
    """The same of a file; empty where it cannot be read, is too large or no regular file: its user reports that."""
    try:
        return of_pem(_content(path)) if path is not None else []
    except OSError:
        return []


def _content(path: Path) -> bytes:
    """Read a regular file; nothing of anything else, such as a FIFO, which is opened without a wait."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        usable = stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST
        return file.read(_LARGEST) if usable else b""


def authority(path: Path | None) -> list[Credential]:
    """A file of authorities: it is good until the last of them expires, since any of them may have signed."""
    found = of_file(path)
    return [Credential("tls", str(path), max(found, key=lambda each: each.expires))] if found else []
