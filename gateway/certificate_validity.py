"""Reads the validity periods of X.509 certificates (RFC 5280, section 4.1.2.5)."""

import base64
import os
import re
import stat
from pathlib import Path

from gateway.contracts.certificate import MonitoredCertificate, ValidityPeriod

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL)

_LARGEST = 4 << 20
"""Maximum size of a certificate file, in bytes. The CA bundle of a Linux system is about 256 KiB."""


def der_validity(data: bytes) -> ValidityPeriod | None:
    """Return the validity of a DER certificate; None if `data` is not a certificate."""
    from cryptography import x509  # noqa: PLC0415 - slow to import

    try:
        certificate = x509.load_der_x509_certificate(data)
        return ValidityPeriod(
            certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        )
    except ValueError:
        return None


def pem_validities(data: bytes) -> list[ValidityPeriod]:
    """Return the validity of each PEM certificate in `data`; skip certificates that cannot be parsed."""
    validities = []
    for body in _PEM.findall(data):
        try:
            validities.append(der_validity(base64.b64decode(body)))
        except ValueError:
            continue
    return [each for each in validities if each is not None]


def file_validities(path: Path | None) -> list[ValidityPeriod]:
    """Return the validity of each PEM certificate in a file.

    The result is empty if `path` is None, or if the file is unreadable, too large or not a regular file. This
    function reports no errors, because the code that uses the file reports them.
    """
    try:
        return pem_validities(_content(path)) if path is not None else []
    except OSError:
        return []


def _content(path: Path) -> bytes:
    """Return the content of a regular file; empty bytes if the file is too large.

    For other files, such as a FIFO, return empty bytes without blocking.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        usable = stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST
        return file.read(_LARGEST) if usable else b""


def ca_credentials(path: Path | None) -> list[MonitoredCertificate]:
    """Return a list with one `MonitoredCertificate` for a CA file; empty if the file contains no certificate.

    If the file contains several certificates, the result describes the one that expires last. The others can be
    authorities that are no longer in use.
    """
    validities = file_validities(path)
    return (
        [MonitoredCertificate("tls", str(path), max(validities, key=lambda each: each.expires))] if validities else []
    )
