"""Normalizes the inline blocks in OpenVPN files: keys, certificates and logins. Does no I/O."""

import base64
import re
from collections.abc import Iterator

from gateway.errors import GatewayError

_BEGIN = re.compile(r"-----BEGIN ([A-Za-z0-9 -]+)-----")
_ENCRYPTED = re.compile(r"(Proc-Type: 4,ENCRYPTED)\n(DEK-Info: [A-Z0-9-]{1,32},[0-9A-Fa-f]{1,64})\n\n(.*)", re.DOTALL)
_CERTIFICATES = ("CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE")
_KEYS = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY")
_CRL = "X509 CRL"
_STATIC = "OpenVPN Static key V1"
_CLIENT_V2 = "OpenVPN tls-crypt-v2 client key"
_SECTIONS = {
    "ca": (*_CERTIFICATES, _CRL), "cert": _CERTIFICATES, "extra-certs": _CERTIFICATES, "key": _KEYS,
    "crl-verify": (_CRL,), "tls-auth": (_STATIC,), "tls-crypt": (_STATIC,),
    "tls-crypt-v2": (_CLIENT_V2,),
}  # fmt: skip
"""Labels of the PEM sections that each directive uses. OpenVPN ignores other sections, so the gateway drops them."""
_SINGLE_SECTION = {"key", "tls-auth", "tls-crypt", "tls-crypt-v2"}
"""Directives that use only the first PEM section of their content."""
_STATIC_DIGITS = 512
_WIDTH = 64
_MAX_LOGIN = 127
"""Maximum length of a user name or a password, in bytes (USER_PASS_LEN in misc.h)."""
_SEQUENCE = b"\x30"
"""The first byte of DER certificates, DER keys and PKCS #12 files: the tag SEQUENCE (X.690, section 8.9)."""
_COPY_AGAIN = "get a new copy from the VPN's operator"
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){19,31}")


def normalize_block(name: str, text: str) -> tuple[str, ...]:
    """Return the lines of a block in normal form, with only the parts that OpenVPN uses.

    Args:
        name: Name of the directive.
        text: The content of the directive's block or file.

    Raises:
        GatewayError: The content is not valid for the directive. The message contains no part of the content.
    """
    if name == "pkcs12":
        return _normalize_base64(text, "PKCS #12 in base64", _SEQUENCE)
    if name in ("auth-user-pass", "http-proxy-user-pass"):
        return _normalize_login(text)
    if name in ("peer-fingerprint", "verify-hash"):
        return _normalize_fingerprints(text)
    return _normalize_sections(name, text)


def decode_file(name: str, data: bytes) -> str:
    """Convert the content of a file to the content of an inline block.

    Args:
        name: The directive that refers to the file.
        data: The content of the file.

    Raises:
        GatewayError: The content is not UTF-8 text.
    """
    if name == "pkcs12":
        return base64.b64encode(data).decode()
    try:
        return data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise GatewayError(
            "is not UTF-8 text: convert a binary key or certificate to PEM format, or a text file to UTF-8"
        ) from None


def _normalize_sections(name: str, text: str) -> tuple[str, ...]:
    labels = _SECTIONS[name]
    lines: list[str] = []
    for label, body in _pem_sections(text.split("\n"), f"contains an incomplete {labels[0]} in PEM: {_COPY_AGAIN}"):
        if label in labels and not (lines and name in _SINGLE_SECTION):
            lines += [f"-----BEGIN {label}-----", *_normalize_body(label, body), f"-----END {label}-----"]
    if not lines:
        raise GatewayError(f"contains no {labels[0]} in PEM: {_COPY_AGAIN}")
    return tuple(lines)


def _pem_sections(lines: list[str], error: str) -> Iterator[tuple[str, str]]:
    """Yield the label and the body of each PEM section (RFC 7468).

    If a section is incomplete, raise a `GatewayError` with the message `error`.
    """
    label, body = None, [""]
    for line in map(str.strip, lines):
        begins = _BEGIN.fullmatch(line)
        if begins and label is None:
            label, body = begins[1], []
        elif label is not None and line == f"-----END {label}-----":
            yield label, "\n".join(body)
            label = None
        elif line.startswith("-----"):
            raise GatewayError(error)
        else:
            body.append(line)
    if label is not None:
        raise GatewayError(error)


def _normalize_body(label: str, body: str) -> tuple[str, ...]:
    if label == _STATIC:
        digits = "".join(body.split())
        if len(digits) != _STATIC_DIGITS or not re.fullmatch(r"[0-9A-Fa-f]+", digits):
            raise GatewayError(f"must contain a static key of {_STATIC_DIGITS} hexadecimal digits: {_COPY_AGAIN}")
        return tuple(digits[start : start + 32] for start in range(0, _STATIC_DIGITS, 32))
    encrypted = _ENCRYPTED.fullmatch(body)
    if encrypted:
        return (encrypted[1], encrypted[2], "", *_normalize_base64(encrypted[3], label))
    return _normalize_base64(body, label, b"" if label == _CLIENT_V2 else _SEQUENCE)


def _normalize_base64(text: str, what: str, prefix: bytes = b"") -> tuple[str, ...]:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        data = b""
    if not data or not data.startswith(prefix):
        raise GatewayError(f"contains no {what}: {_COPY_AGAIN}")
    text = base64.b64encode(data).decode()
    return tuple(text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH))


def _normalize_login(text: str) -> tuple[str, ...]:
    lines = text.rstrip("\n").split("\n")
    if len(lines) != 2 or not all(0 < len(line.encode()) <= _MAX_LOGIN and line.isprintable() for line in lines):
        raise GatewayError(
            f"must have two lines, the user name and the password, each with 1 to {_MAX_LOGIN} bytes of printable"
            " characters: correct the lines, or remove this directive and set user and password_file"
        )
    if any(line.lstrip().startswith("</") for line in lines):
        raise GatewayError(
            "has a line that starts with </, which OpenVPN reads as the end of the block: remove this directive, and"
            " set user and password_file"
        )
    return tuple(lines)


def _normalize_fingerprints(text: str) -> tuple[str, ...]:
    lines = tuple(stripped for line in text.split("\n") if (stripped := line.strip()) and stripped[0] not in "#;")
    if not lines or not all(map(_FINGERPRINT.fullmatch, lines)):
        raise GatewayError("must have one fingerprint per line: pairs of hexadecimal digits, separated by colons")
    return lines
