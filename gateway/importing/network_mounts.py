"""Imports Docker volumes, mount(8) commands and fstab(5) lines that mount a network file system."""

import re
from collections.abc import Mapping

from gateway.backend_support.volume_definition import local_address
from gateway.backends import KINDS, BackendKind, file_system_of_device, kind_of_file_system
from gateway.errors import UsageError
from gateway.importing.import_result import ImportResult, is_host, split_target
from gateway.importing.imported_setup import ImportedClient
from gateway.octal_escapes import escaped, unescaped
from gateway.secret_redaction import redacted


def import_volume(name: str, options: Mapping[str, str], where: str, result: ImportResult, key: str = "") -> None:
    """Import a Docker volume that mounts a network file system. For any other volume with options, add a note.

    Args:
        name: The volume's name.
        options: The options of the volume's driver.
        where: The start of each note and error, such as `volumes.data`.
        result: Receives the imported client and the notes.
        key: The key of the volume in its Compose file; empty if no Compose file defines the volume.

    Raises:
        UsageError: The name or the options are not valid.
    """
    kind = kind_of_file_system(str(options.get("type", "")))
    if kind is None or kind.mount is None or kind.mount.import_volume is None:
        if options:
            shown = redacted([f"{key}={value}" for key, value in options.items()])
            result.add_note(f"{where}: not changed, because the gateway does not forward this file system ({shown})")
        return
    _add_client(name, kind, options, where, result, volume=_valid_name(name, where, result, in_compose=bool(key)))
    result.clients[-1].volume_key = key


def _valid_name(name: str, where: str, result: ImportResult, *, in_compose: bool) -> str:
    """Return a valid name for a Docker volume.

    If `name` is not valid, but contains a variable or comes from a Compose file, return a similar name, and add a
    note.

    Raises:
        UsageError: `name` is not valid, contains no variable, and does not come from a Compose file.
    """
    if re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name):
        return name
    if not in_compose and "${" not in name:
        raise UsageError(
            f"{where}: {name!r} is not a volume name: use at least two characters from a-z, A-Z, 0-9 and _.-"
        )
    new = re.sub(r"[^a-zA-Z0-9_.-]", "-", re.sub(r"\$\{(\w+)\}", r"\1", name)).strip("_.-")
    new = new if len(new) > 1 else f"{new}-volume".lstrip("-")
    result.add_note(f"{where}: {name} is not a valid name for a Docker volume, so the configuration uses {new}")
    return new


def _add_client(
    name: str,
    kind: BackendKind,
    options: Mapping[str, str],
    where: str,
    result: ImportResult,
    volume: str = "",
    folder: str = "",
) -> None:
    assert kind.mount is not None  # noqa: S101 - for the type checker
    assert kind.mount.import_volume is not None  # noqa: S101 - for the type checker
    try:
        keys, notes = kind.mount.import_volume(options)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    host, port = _split_server(keys.pop("targets")[0], kind)
    inner = keys.pop("volume", None)
    if volume and inner is not None:
        keys["volume"] = {"name": volume, **inner}
    for key in options:
        if key not in ("type", "o", "device"):
            notes.append(f"{key}={options[key]}: not imported")
    client = ImportedClient(where, name, kind.name, host, port, keys, volume=volume, folder=folder)
    if folder:
        # `note_fstab_line` needs the mount options, because the new line keeps most of them.
        client.mount_options = options.get("o", "")
    else:
        client.notes = tuple(notes)
    result.clients.append(client)


def _split_server(server: str, kind: BackendKind) -> tuple[str, int]:
    host = server.removeprefix("[").removesuffix("]")
    return (host, kind.default_port) if kind.default_port and is_host(host) else split_target(server)


def is_fstab(text: str) -> bool:
    """Return whether the content of a file is in the format of fstab(5)."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return bool(lines) and all(4 <= len(line) <= 6 and re.match(r"/|none|swap", line[1]) for line in lines)


def import_fstab(text: str, source: str, result: ImportResult) -> None:
    """Import the network file systems in an fstab(5) file.

    Args:
        text: The content of the file.
        source: The start of each note and error: the file's name, a colon and a space.
        result: Receives the imported clients and the notes.

    Raises:
        UsageError: A line is not valid.
    """
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        where = f"{source}line {number}"
        if len(fields) < 4:
            raise UsageError(f"{where}: a line needs device, directory, type and options")
        device, folder, file_system, options = map(unescaped, fields[:4])
        import_mount(device, folder, file_system, options, where, result)


def import_mount_command(words: list[str], where: str, result: ImportResult) -> None:
    """Import a mount(8) command that mounts a network file system. For any other command, add a note.

    Args:
        words: The words after `mount`.
        where: The start of each note and error, such as the command in backticks.
        result: Receives the imported client and the notes.

    Raises:
        UsageError: The device or the options are not valid.
    """
    options: list[str] = []
    kind, others = "", []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-t", "-o") and rest:
            value = rest.pop(0)
            kind, options = (value, options) if word == "-t" else (kind, [*options, value])
        else:
            others.append(word)
    if len(others) == 2:
        kind = kind or file_system_of_device(others[0])
        import_mount(others[0], others[1], kind, ",".join(options) or "defaults", where, result)
    else:
        result.add_note(f"{where}: not imported")


def import_mount(device: str, folder: str, file_system: str, options: str, where: str, result: ImportResult) -> None:
    """Import a network file system that this host mounts. For any other file system, add a note.

    Args:
        device: The device, such as `server:/export`.
        folder: The directory on which the file system is mounted.
        file_system: The type of the file system.
        options: The mount options.
        where: The start of each note and error, such as `fstab: line 3`.
        result: Receives the imported client and the notes.

    Raises:
        UsageError: The device or the options are not valid.
    """
    kind = kind_of_file_system(file_system)
    if kind is None or kind.mount is None or kind.mount.import_volume is None:
        reason = "export the directory with NFS instead" if "sshfs" in file_system else "not a network file system"
        shown = " ".join(filter(None, (device, folder, file_system, redacted([options]))))
        result.add_note(f"{where}: {shown}: not imported: {reason}")
        return
    name = folder.rstrip("/").rpartition("/")[2] or "root"
    _add_client(name, kind, {"type": file_system, "device": device, "o": options}, where, result, folder=folder)


def note_fstab_line(client: ImportedClient, listen: str, result: ImportResult) -> None:
    """Add an instruction with a new fstab(5) line, which mounts a network file system through the gateway.

    Args:
        client: The imported mount.
        listen: The listener, as `host:port`.
        result: Receives the instruction (in `changes`), and notes on mount options that differ.
    """
    mount = KINDS[client.kind].mount
    assert mount is not None  # noqa: S101 - for the type checker
    assert mount.host_mount is not None  # noqa: S101 - for the type checker
    host, port = split_target(listen)
    kept = [each for each in client.mount_options.split(",") if not re.match(r"(addr|ip|port)=|defaults$|$", each)]
    path = client.keys.get(mount.path_key, result.backends[client.backend].get(mount.path_key))
    made = mount.host_mount(local_address(host), port, str(path), kept)
    if made.note:
        result.add_note(f"{client.where}: {made.note}")
    options = redacted([",".join(dict.fromkeys([*made.options, "_netdev"]))])
    fields = (made.device, client.folder, made.file_system, options)
    line = f"{' '.join(map(escaped, fields))} 0 0"
    result.changes.append((client, f"new line of /etc/fstab: {line}"))
