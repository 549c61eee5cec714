"""Parses ssh_config files (ssh_config(5))."""

import fnmatch
import re
from itertools import takewhile

from gateway.errors import UsageError
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import SshCommandContext
from gateway.importing.ssh_host_config import SshHostConfig
from gateway.importing.ssh_tunnels import add_host

_Block = tuple[list[str], list[tuple[str, str]]]
"""The patterns of a `Host` line, and the keywords below the line."""
_WHOLE_LINE = frozenset({"proxycommand", "localcommand", "remotecommand", "knownhostscommand"})
"""The keywords whose value is a command. The command extends to the end of the line, even if it contains `#`."""


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

    for patterns, _ in blocks:
        forwards: dict[tuple[str, ...], str] = {}
        for name in [name for name in patterns if not re.search(r"[*?!]", name)]:
            config = _host_config(name, blocks)
            if "localforward" not in config.keywords or name in imported:
                continue
            imported.add(name)
            same = forwards.setdefault(tuple(config.keywords["localforward"]), name)
            if same != name:
                result.add_note(f"{where}: Host {name}: not imported, because Host {same} has the same forwards")
                continue
            add_host(config, SshCommandContext(f"{where}: Host {name}"), result, look_up)
    if not imported:
        raise UsageError(f"{where}: there is no local forward to import (LocalForward)")
    for patterns, lines in blocks[1:]:
        has_forward = any(key.lower() == "localforward" for key, _ in lines)
        if has_forward and not any(_matches(name, patterns) for name in imported):
            result.add_note(
                f"{where}: Host {' '.join(patterns)}: not imported, because no imported host matches this line; add a"
                " line `Host NAME` without wildcards for each host"
            )
        names = {name for name in patterns if not re.search(r"[*?!]", name)}
        if names and not names & (imported | jumps):
            settings = "; ".join(f"{key} {value}" for key, value in lines)
            result.add_note(
                f"{where}: Host {' '.join(patterns)}: not imported, because it has no LocalForward; it has {settings}"
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
        if key.lower() not in _WHOLE_LINE:
            value = _without_comment(value)
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


def _without_comment(value: str) -> str:
    """Return the arguments of a keyword without the comment after them."""
    words = re.findall(r'\s*(?:"[^"]*"|\S+)', value)
    return "".join(takewhile(lambda word: not word.lstrip().startswith("#"), words))


def _host_config(name: str, blocks: list[_Block]) -> SshHostConfig:
    """Collect the settings of one host from all blocks whose patterns match the host (ssh_config(5))."""
    config = SshHostConfig(name)
    for patterns, lines in blocks:
        if _matches(name, patterns):
            for key, value in lines:
                config.add(key, value)
    return config


def _matches(name: str, patterns: list[str]) -> bool:
    """Return whether a host matches the patterns of a `Host` line."""
    refused = any(fnmatch.fnmatchcase(name, each[1:]) for each in patterns if each.startswith("!"))
    return not refused and any(fnmatch.fnmatchcase(name, each) for each in patterns)
