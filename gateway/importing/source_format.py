"""Recognizes the format of a file or command to import, such as a Compose file or an ssh command."""

import re
from dataclasses import dataclass

from gateway.errors import UsageError
from gateway.importing.network_mounts import is_fstab
from gateway.tunnels import KINDS

FORMS = ("ssh", "ssh-config", "compose", "docker-run", "env", "fstab")
"""The source formats that a user can specify on the command line."""


@dataclass(frozen=True)
class ImportSource:
    """A file, command or list of environment variables to import.

    Args:
        name: The name of the file; empty if the source was passed on the command line.
        text: The content.
        form: One of `FORMS`, `systemd`, or the name of a tunnel kind that has configuration files, such as `openvpn`;
            empty to recognize the format from the name and the text.
    """

    name: str
    text: str
    form: str = ""


def recognize(source: ImportSource) -> str:
    """Return the format of a source: a value of `ImportSource.form`, or `script` for a script or a command.

    Raises:
        UsageError: The format cannot be recognized.
    """
    text, name = source.text, source.name.rpartition("/")[2]
    if name.endswith((".yaml", ".yml")) or re.search(r"(?m)^(services|volumes):", text):
        return "compose"
    if re.search(r"(?m)^\[(Service|Unit|Mount|Automount)\]", text):
        return "systemd"
    if name == "fstab" or is_fstab(text):
        return "fstab"
    if source.name:  # only for files, because the loop imports all kinds of tunnels, which is slow
        for kind in KINDS.values():
            if kind.import_file(source.name, text) is not None:
                return kind.name
    if re.search(r"(?im)^\s*(host|localforward)\s", text) and not re.search(r"(?m)^\s*(docker|ssh)\s", text):
        return "ssh-config"
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and all(
        re.match(r"\s*(export\s+)?[A-Za-z_][\w.]*\s*=(?!\S*\s+\S*(ssh|docker)\s)", line) for line in lines
    ):
        return "env"
    if re.search(r"(?m)(^|[\s;&/])(ssh|autossh|docker|podman|mount)\s", text):
        return "script"
    shown = source.name or text.strip().splitlines()[0][:60] if text.strip() else source.name or "an empty source"
    raise UsageError(
        f"{shown}: the format is not recognized; write one of these words before the source: {', '.join(FORMS)}"
    )
