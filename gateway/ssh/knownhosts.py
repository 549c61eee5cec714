"""known_hosts files (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): read in a thread, parsed once, fail closed."""

import ipaddress
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.public_key import import_certificate_subject

from gateway.errors import Reason, TunnelError
from gateway.ssh.credentials import error_text

_MARKERS = ("@cert-authority", "@revoked")
_PARSE_ERRORS = (ValueError, NameError)
"""What asyncssh raises for a line; the latter for what looks like an X.509 certificate, without a library for it."""
_SSH_PORT = 22
_MTIME_SETTLED_NS = 2_000_000_000
"""Nanoseconds after which a file's times tell of every later change; clocks of file systems are coarse."""
_MAX_CACHED_LOOKUPS = 64
_Stamp = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class KnownHostEntries:
    """What the files say about one server."""

    keys: tuple[Any, ...] = ()
    authorities: tuple[Any, ...] = ()
    revoked: tuple[Any, ...] = ()


@dataclass
class KnownHosts:
    """The parsed lines of some files.

    Args:
        hosts: As asyncssh reads them.
        stamp: Of the files that they were read from; None: they changed so recently that they must be read again.
    """

    hosts: Any
    stamp: _Stamp | None
    _places: dict[tuple[str, int, str], KnownHostEntries] = field(default_factory=dict)

    def look_up(self, name: str, port: int, address: str) -> KnownHostEntries:
        """What stands there about a server.

        A key is trusted for the name that was configured, as OpenSSH does without CheckHostIP, and not for an address
        to which it happens to resolve. A revoked one is revoked under any of them, with the port or without. The
        case of names does not matter, as in OpenSSH.

        Args:
            name: What was configured: a name, or an address.
            port: Where it listens.
            address: Where the connection leads; empty when that is not known.

        Raises:
            TunnelError: A line trusts a certificate; fatal.
        """
        place = (name.lower(), port, address.lower())
        found = self._places.get(place)
        if found is None:
            if len(self._places) >= _MAX_CACHED_LOOKUPS:
                self._places.clear()
            found = self._places[place] = self._find(*place)
        return found

    def _find(self, name: str, port: int, address: str) -> KnownHostEntries:
        match = self.hosts.match
        found = match(name, _literal(name), None if port == _SSH_PORT else port)
        if any(not each.is_x509 for each in found[3]):
            raise TunnelError(
                Reason.HOST_KEY,
                f"known_hosts: a line for {name} trusts a certificate: list its key, or its @cert-authority",
                fatal=True,
            )
        revoked = []
        for each in filter(None, (name, address)):
            for form in (each, f"[{each}]:{port}"):
                listed = match(form, "", None)
                revoked += [*listed[2], *(certificate.key for certificate in listed[4])]
        return KnownHostEntries(tuple(found[0]), tuple(found[1]), tuple(revoked))


_parsed: dict[tuple[Path, ...], KnownHosts] = {}


def known_hosts(paths: tuple[Path, ...]) -> KnownHosts:
    """The lines of these files, parsed again only when one of them has changed. Blocks: to be called in a thread.

    Raises:
        TunnelError: A file cannot be read, or has a line that is not understood; fatal.
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
        place = _place_of_error(paths, texts)
        raise TunnelError(Reason.HOST_KEY, f"{place}: {error}: correct it or delete it", fatal=True) from error
    made = KnownHosts(hosts, None if None in stamps else tuple(each for each in stamps if each is not None))
    _parsed[paths] = made
    return made


def _with_lower_hosts(text: str) -> str:
    """Lower the host patterns, which asyncssh compares as they are; a hash is of a name in lower case already."""
    return "\n".join(map(_with_lower_host, text.splitlines()))


def _with_lower_host(line: str) -> str:
    words = line.split(None, 2)
    hosts = next((word for word in words if word not in _MARKERS), "")
    return line if hosts.startswith(("|", "#")) else line.replace(hosts, hosts.lower(), 1)


def _place_of_error(paths: tuple[Path, ...], texts: list[str]) -> str:
    """Return the file and line that asyncssh cannot read."""
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
    """A file whose every line is understood, and its stamp: a line that is not might be what revokes a key."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _MTIME_SETTLED_NS
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TunnelError(Reason.HOST_KEY, f"{path}: {error_text(error)}", fatal=True) from error
    for number, line in enumerate(text.splitlines(), 1):
        if not _is_understood(line.strip()):
            detail = f"{path}:{number}: is no line of known_hosts (hosts, kind of key, key): correct it or delete it"
            raise TunnelError(Reason.HOST_KEY, detail, fatal=True)
    return text, _stamp(status) if settled else None


def _is_understood(line: str) -> bool:
    """Whether asyncssh reads it; it may do without a kind of key that it does not know, unless that is revoked."""
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
    """A configured address as known_hosts files spell it; empty for a name."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return ""
