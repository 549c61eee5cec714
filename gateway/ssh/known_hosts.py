"""Reads known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). Refuses files with an invalid line."""

import ipaddress
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.public_key import import_certificate_subject

from gateway.errors import FailureReason, TunnelError
from gateway.text_sanitizer import error_text

_MARKERS = ("@cert-authority", "@revoked")
_PARSE_ERRORS = (ValueError, NameError)
"""Errors that asyncssh raises for an invalid line. For an X.509 certificate, asyncssh raises NameError if the library
for X.509 is not installed."""
_SSH_PORT = 22
_MTIME_SETTLED_NS = 2_000_000_000
"""If a file changed less than this number of nanoseconds ago, its content is not cached. File timestamps are coarse,
so a second change shortly after the first might not change the timestamp."""
_MAX_CACHED_LOOKUPS = 64
_Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class KnownHostEntries:
    """The trusted and revoked keys that known_hosts files list for one server."""

    keys: tuple[Any, ...] = ()
    authorities: tuple[Any, ...] = ()
    revoked: tuple[Any, ...] = ()


@dataclass
class KnownHosts:
    """The parsed content of known_hosts files.

    Args:
        hosts: The lines of all files, parsed by asyncssh (`asyncssh.import_known_hosts`).
        stamp: Identifies the version of the files. None if a file has just changed; see `_MTIME_SETTLED_NS`.
    """

    hosts: Any
    stamp: _Stamp | None
    _cache: dict[tuple[str, int, str], KnownHostEntries] = field(default_factory=dict)

    def look_up(self, name: str, port: int, address: str) -> KnownHostEntries:
        """Return the entries for a server. Names are not case-sensitive, as in OpenSSH.

        Trusted keys come only from the lines for the configured name, as in OpenSSH without CheckHostIP. Revoked keys
        come from the lines for the name and for the server's address, both with and without the port.

        Args:
            name: The configured host name or address.
            port: The server's port.
            address: The server's IP address; empty if it is not known.

        Raises:
            TunnelError: A line lists an OpenSSH certificate instead of a key; fatal.
        """
        key = (name.lower(), port, address.lower())
        entries = self._cache.get(key)
        if entries is None:
            if len(self._cache) >= _MAX_CACHED_LOOKUPS:
                self._cache.clear()
            entries = self._cache[key] = self._find(*key)
        return entries

    def _find(self, name: str, port: int, address: str) -> KnownHostEntries:
        match = self.hosts.match
        matches = match(name, _literal(name), None if port == _SSH_PORT else port)
        if any(not each.is_x509 for each in matches[3]):
            raise TunnelError(
                FailureReason.HOST_KEY,
                f"known_hosts: a line for {name} trusts a certificate: list its key, or its CA with @cert-authority",
                fatal=True,
            )
        revoked = []
        for each in filter(None, (name, address)):
            for form in (each, f"[{each}]:{port}"):
                listed = match(form, "", None)
                revoked += [*listed[2], *(certificate.key for certificate in listed[4])]
        return KnownHostEntries(tuple(matches[0]), tuple(matches[1]), tuple(revoked))


_parsed: dict[tuple[Path, ...], KnownHosts] = {}


def load_known_hosts(paths: tuple[Path, ...]) -> KnownHosts:
    """Return the content of known_hosts files. Parse them only if a file has changed.

    The function blocks, so call it in a thread.

    Raises:
        TunnelError: A file cannot be read or has an invalid line; fatal.
    """
    cached = _parsed.get(paths)
    if cached is not None and cached.stamp is not None and cached.stamp == _stamps(paths):
        return cached
    texts, stamps = [], []
    for path in paths:
        text, stamp = _read(path)
        texts.append(text)
        stamps.append(stamp)
    try:
        hosts = asyncssh.import_known_hosts("\n".join(map(_with_lower_hosts, texts)))
    except _PARSE_ERRORS as error:
        location = _error_location(paths, texts)
        raise TunnelError(
            FailureReason.HOST_KEY, f"{location}: {error}: fix or remove this line", fatal=True
        ) from error
    parsed = KnownHosts(hosts, None if None in stamps else tuple(each for each in stamps if each is not None))
    _parsed[paths] = parsed
    return parsed


def _with_lower_hosts(text: str) -> str:
    """Convert host patterns to lower case, because asyncssh is case-sensitive. Hashed names are left unchanged."""
    return "\n".join(map(_with_lower_host, text.splitlines()))


def _with_lower_host(line: str) -> str:
    words = line.split(None, 2)
    hosts = next((word for word in words if word not in _MARKERS), "")
    return line if hosts.startswith(("|", "#")) else line.replace(hosts, hosts.lower(), 1)


def _error_location(paths: tuple[Path, ...], texts: list[str]) -> str:
    """Return the file and the line number of the first line that asyncssh cannot parse."""
    for path, text in zip(paths, texts, strict=True):
        for number, line in enumerate(text.splitlines(), 1):
            try:
                asyncssh.import_known_hosts(line)
            except _PARSE_ERRORS:
                return f"{path}:{number}"
    return "known_hosts"


def _stamps(paths: Sequence[Path]) -> _Stamp | None:
    try:
        return tuple(_stamp(path.stat()) for path in paths)
    except OSError:
        return None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path) -> tuple[str, tuple[int, ...] | None]:
    """Read and validate a file.

    An invalid line is an error, because the operator might have written it to revoke a key.

    Returns:
        The content, and a stamp that identifies the file's version. The stamp is None if the file has just changed;
        see `_MTIME_SETTLED_NS`.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _MTIME_SETTLED_NS
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TunnelError(FailureReason.HOST_KEY, f"{path}: {error_text(error)}", fatal=True) from error
    for number, line in enumerate(text.splitlines(), 1):
        if not _is_valid(line.strip()):
            detail = f"{path}:{number}: not a valid known_hosts line (hosts, key type, key): fix or remove it"
            raise TunnelError(FailureReason.HOST_KEY, detail, fatal=True)
    return text, _stamp(status) if settled else None


def _is_valid(line: str) -> bool:
    """Return whether a line is valid. In an `@revoked` line, the key must be of a type that asyncssh supports."""
    words = line.split(None, 2)
    if not words or line.startswith("#"):
        return True
    if line.startswith("@"):
        return words[0] in _MARKERS and len(words) == 3 and (words[0] != "@revoked" or _is_key(words[2]))
    return len(words) > 1


def _is_key(data: str) -> bool:
    for read in (asyncssh.import_public_key, asyncssh.import_certificate, import_certificate_subject):
        try:
            read(data)
        except _PARSE_ERRORS:
            continue
        return True
    return False


def _literal(name: str) -> str:
    """Return an IP address in canonical form; an empty string if `name` is a host name."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return ""
