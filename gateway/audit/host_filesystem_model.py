"""Defines the part of a snapshot that describes the engine's host: its mounts, files and private keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.audit.private_keys import KeyKind


@dataclass(frozen=True)
class HostMount:
    """One line of the mount table of the engine's host.

    Args:
        point: The mount point.
        file_system: The type of the file system, such as `ext4` or `nfs4`.
        source: The mounted device, directory or export, such as `server:/export`.
        options: Options of the mount and of the file system.
    """

    point: str
    file_system: str
    source: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class FoundPrivateKey:
    """A private key in a mounted file or directory of the host.

    Args:
        kind: The use of the key: `SSH key` or `TLS key`.
        path: The path of the key below the mounted directory; empty if the key file itself is mounted.
        is_alone: Whether the mounted directory contains only private keys and files that belong to them, such as
            public keys.
    """

    kind: KeyKind
    path: str = ""
    is_alone: bool = True


@dataclass(frozen=True)
class HostPath:
    """A file or directory of the engine's host.

    Args:
        kind: `directory`, `file`, `socket` or `other`.
        uid: The user ID of the owner.
        gid: The group ID of the file or directory.
        mode: The permission bits.
        has_acl: Whether an access control list extends the permission bits.
        entries: The names in the directory; None if there are too many, or if the directory cannot be read.
        database: The kind of database whose files are in the directory or a few levels below; empty if none is known.
        key: A private key in the file, in the directory, or a few levels below; None if none is known.
    """

    kind: Literal["directory", "file", "socket", "other"]
    uid: int
    gid: int
    mode: int
    has_acl: bool = False
    entries: frozenset[str] | None = None
    database: str = ""
    key: FoundPrivateKey | None = None
