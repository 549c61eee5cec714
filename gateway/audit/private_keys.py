"""Recognizes private keys by the names and the content of files. Does no I/O."""

import posixpath
import re
from typing import Literal

KeyKind = Literal["SSH key", "TLS key"]

_SSH_NAME = re.compile(
    r"(^|/)(id_(rsa|dsa|ecdsa|ed25519)(_sk)?|ssh_host_\w+_key|[\w.-]*private[_-]?key[\w.-]*|[\w.-]*ssh[_-]?key[\w.-]*|"
    r"[\w.-]+\.ppk|\.ssh)$|/\.ssh/(?!known_hosts|config|authorized_keys)"
)
_TLS_NAME = re.compile(r"\.key$|(^|[/_-])(priv)?key\d*\.pem$")
LARGEST = 32 * 1024
"""The maximum size of a key file in bytes. A PEM file can contain a chain of certificates before the key."""
_SMALLEST = 50
_SUFFIXES = ("", ".pem", ".key", ".ppk")
_SSH_CONTENT = re.compile(rb"-----BEGIN (OPENSSH|DSA) PRIVATE KEY-----|^PuTTY-User-Key-File-")
_CONTENT = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")


def by_name(path: str) -> KeyKind | None:
    """Return the kind of key that a file with this path usually contains; None if the name is not typical of keys."""
    if _SSH_NAME.search(path):
        return "SSH key"
    return "TLS key" if _TLS_NAME.search(path) else None


def by_content(start: bytes, path: str) -> KeyKind | None:
    """Return the kind of private key that a file contains; None if it contains no private key.

    A PEM file can contain a key for SSH or for TLS (RFC 7468). The function assumes an SSH key, unless the name of
    the file is typical of a TLS key.

    Args:
        start: The start of the file.
        path: The path of the file.
    """
    if _SSH_CONTENT.search(start):
        return "SSH key"
    if not _CONTENT.search(start):
        return None
    return "TLS key" if _TLS_NAME.search(path) and not _SSH_NAME.search(path) else "SSH key"


def is_name_of_candidate(name: str) -> bool:
    """Return whether a file with this name can be a key.

    Return False for a name that consists only of digits, because database files often have such names.
    """
    return (posixpath.splitext(name)[1] in _SUFFIXES or by_name(name) is not None) and not name.isdigit()


def is_candidate(name: str, mode: int, size: int) -> bool:
    """Return whether a file with this name, mode and size can be a key.

    Many files have names without a dot. Programs refuse private keys that other users can read, so a file with such a
    name is a candidate only if its owner alone has access to it, or if the name is typical of a key (see `by_name`).

    Args:
        name: The name of the file.
        mode: The permission bits.
        size: The size in bytes.
    """
    is_private = not mode & 0o077 or "." in name or by_name(name) is not None
    return is_name_of_candidate(name) and is_private and _SMALLEST <= size <= LARGEST


def is_companion(path: str) -> bool:
    """Return whether a file has the name of a public key or of an OpenSSH file such as `known_hosts`."""
    return path.endswith(".pub") or posixpath.basename(path) in ("known_hosts", "config", "authorized_keys")
