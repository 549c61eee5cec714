"""Parses ssh_config files (ssh_config(5))."""

import fnmatch
import re

from gateway.errors import UsageError
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import SshCommandContext
from gateway.importing.ssh_host_config import SshHostConfig
from gateway.importing.ssh_tunnels import add_host

_Block = tuple[list[str], list[tuple[str, str]]]
"""The patterns of a `Host` line, and the keywords below the line."""


def import_config(text: str, where: str, result: ImportResult) -> None:
    """Import each host that has the keyword `LocalForward`, as a tunnel with its forwards.

    Args:
        text: The content of the file.
        where: The name by which notes refer to the file.
        result: The imported configuration. The function adds the tunnels and forwards, and notes about the hosts and
            lines that it does not import.

    Raises:
        UsageError: A line cannot be parsed, or no host has the keyword `LocalForward`.
    """
    blocks = _blocks(text, where, result)
    jumps: set[str] = set()
    imported: set[str] = set()

    def look_up(jump: str) -> SshHostConfig:
        name = jump.rpartition("@")[2].partition(":")[0]
        jumps.add(name)
        config = _host_config(name, blocks)
        config.destination = jump
        return config

    for name in [name for patterns, _ in blocks for name in patterns if not re.search(r"[*?!]", name)]:
        config = _host_config(name, blocks)
        if "localforward" in config.keywords and name not in imported:
            imported.add(name)
            add_host(config, SshCommandContext(f"{where}: Host {name}"), result, look_up)
    if not imported:
        raise UsageError(f"{where}: there is no local forward to import (LocalForward)")
    for patterns, lines in blocks:
        names = {name for name in patterns if not re.search(r"[*?!]", name)}
        if names and not names & (imported | jumps):
            settings = "; ".join(f"{key} {value}" for key, value in lines)
            result.add_note(
                f"{where}: Host {' '.join(patterns)}: not imported, because it has no LocalForward ({settings})"
            )


def _blocks(text: str, where: str, result: ImportResult) -> list[_Block]:
    blocks: list[_Block] = [(["*"], [])]
    skipped = False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, _, value = re.sub(r"\s*=\s*|\s+", " ", stripped, count=1).partition(" ")
        if not value:
            raise UsageError(f"{where}: line {number}: {key} has no value: add a value, or remove the line")
        value = re.sub(r'^"([^"]*)"$', r"\1", value.strip())
        if key.lower() == "host":
            skipped = False
            blocks.append((value.split(), []))
        elif key.lower() == "match" and value.lower() == "all":
            skipped = False
            blocks.append((["*"], []))
        elif key.lower() in ("match", "include") or skipped:
            skipped = skipped or key.lower() == "match"
            result.add_note(f"{where}: line {number}: {key} {value}: not imported")
        else:
            blocks[-1][1].append((key, value))
    return blocks


def _host_config(name: str, blocks: list[_Block]) -> SshHostConfig:
    """Collect the settings of one host from all blocks whose patterns match the host (ssh_config(5))."""
    config = SshHostConfig(name)
    for patterns, lines in blocks:
        refused = any(fnmatch.fnmatchcase(name, each[1:]) for each in patterns if each.startswith("!"))
        if not refused and any(fnmatch.fnmatchcase(name, each) for each in patterns):
            for key, value in lines:
                config.add(key, value)
    return config
