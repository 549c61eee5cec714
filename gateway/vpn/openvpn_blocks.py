"""What OpenVPN's blocks hold: keys, certificates and logins, taken apart and written again. Pure."""

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
"""The sections that OpenVPN looks for; it passes others by, and so do we."""
_ONE = {"key", "tls-auth", "tls-crypt", "tls-crypt-v2"}
_STATIC_DIGITS = 512
_WIDTH = 64
_LONGEST_LOGIN = 127
"""Bytes of a user or a password (USER_PASS_LEN in misc.h)."""
_SEQUENCE = b"\x30"
"""Begins certificates, keys and PKCS #12 (X.690, section 8.9)."""
_AGAIN = "copy it from the VPN's operator once more"
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){19,31}")


def content(name: str, text: str) -> tuple[str, ...]:
    """The lines of a block, written again from what they say.

    Args:
        name: The directive.
        text: What stands in its block or its file.

    Raises:
        GatewayError: It is not what this directive needs; the message holds nothing of it.
    """
    if name == "pkcs12":
        return _base64(text, "PKCS #12 in base64", _SEQUENCE)
    if name in ("auth-user-pass", "http-proxy-user-pass"):
        return _login(text)
    if name in ("peer-fingerprint", "verify-hash"):
        return _fingerprints(text)
    return _sections(name, text)


def packed(name: str, data: bytes) -> str:
    """A file as a block would hold it.

    Raises:
        GatewayError: It is not text.
    """
    if name == "pkcs12":
        return base64.b64encode(data).decode()
    try:
        return data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise GatewayError("is not text: it must be in PEM") from None


def _sections(name: str, text: str) -> tuple[str, ...]:
    wanted = _SECTIONS[name]
    lines: list[str] = []
    for label, body in _pem(text.split("\n"), f"holds no whole {wanted[0]} in PEM: {_AGAIN}"):
        if label in wanted and not (lines and name in _ONE):
            lines += [f"-----BEGIN {label}-----", *_body(label, body), f"-----END {label}-----"]
    if not lines:
        raise GatewayError(f"holds no {wanted[0]} in PEM: {_AGAIN}")
    return tuple(lines)


def _pem(lines: list[str], damaged: str) -> Iterator[tuple[str, str]]:
    """The sections (RFC 7468): their labels, and what stands between the two lines."""
    label, body = None, [""]
    for line in map(str.strip, lines):
        begins = _BEGIN.fullmatch(line)
        if begins and label is None:
            label, body = begins[1], []
        elif label is not None and line == f"-----END {label}-----":
            yield label, "\n".join(body)
            label = None
        elif line.startswith("-----"):
            raise GatewayError(damaged)
        else:
            body.append(line)
    if label is not None:
        raise GatewayError(damaged)


def _body(label: str, body: str) -> tuple[str, ...]:
    if label == _STATIC:
        digits = "".join(body.split())
        if len(digits) != _STATIC_DIGITS or not re.fullmatch(r"[0-9A-Fa-f]+", digits):
            raise GatewayError(f"holds no static key: it has {_STATIC_DIGITS} hexadecimal digits")
        return tuple(digits[at : at + 32] for at in range(0, _STATIC_DIGITS, 32))
    encrypted = _ENCRYPTED.fullmatch(body)
    if encrypted:
        return (encrypted[1], encrypted[2], "", *_base64(encrypted[3], label))
    return _base64(body, label, b"" if label == _CLIENT_V2 else _SEQUENCE)


def _base64(text: str, what: str, begin: bytes = b"") -> tuple[str, ...]:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        data = b""
    if not data or not data.startswith(begin):
        raise GatewayError(f"holds no {what}: {_AGAIN}")
    text = base64.b64encode(data).decode()
    return tuple(text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH))


def _login(text: str) -> tuple[str, ...]:
    lines = text.rstrip("\n").split("\n")
    if len(lines) != 2 or not all(0 < len(line.encode()) <= _LONGEST_LOGIN and line.isprintable() for line in lines):
        raise GatewayError(
            "needs two lines, the user and the password: or leave it out and give user and password_file"
        )
    if any(line.lstrip().startswith("</") for line in lines):
        raise GatewayError("holds what looks like the end of a block: give user and password_file")
    return tuple(lines)


def _fingerprints(text: str) -> tuple[str, ...]:
    lines = tuple(stripped for line in text.split("\n") if (stripped := line.strip()) and stripped[0] not in "#;")
    if not lines or not all(map(_FINGERPRINT.fullmatch, lines)):
        raise GatewayError("needs fingerprints, one a line: pairs of hexadecimal digits with colons")
    return lines
