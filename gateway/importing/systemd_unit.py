"""Reads systemd units: their lines (systemd.syntax(7)), commands, variables and specifiers (systemd.unit(5))."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gateway.importing.compose_interpolation import interpolated
from gateway.importing.compose_value_parsers import words_of
from gateway.importing.env_file import EnvFileReader

_UNIT = re.compile(r"(?P<prefix>[^@/]+)(?:@(?P<instance>[^/]*))?\.(?:service|mount)")
_MOUNT = ("What", "Where", "Type", "Options")
"""The settings in the section `[Mount]` that say what to mount."""


class MountUnit(NamedTuple):
    """What a mount unit mounts (systemd.mount(5)).

    Args:
        device: The device, such as `server:/export`.
        folder: The directory on which the file system is mounted.
        file_system: The type of the file system; empty if the unit does not specify it.
        options: The mount options.
    """

    device: str
    folder: str
    file_system: str
    options: str


class SystemdUnit:
    """The settings of a systemd unit.

    Args:
        text: The content of the unit, or the output of `systemctl cat`.
        name: The file name of the unit, such as `tunnel@prod.service`; empty if it is not known.
    """

    def __init__(self, text: str, name: str) -> None:
        self._settings = list(_settings(text))
        self._name = name
        self.unknown: dict[str, None] = {}
        """The specifiers for which no value is known, such as `%i` in a template unit."""

    def commands(self, read_env_file: EnvFileReader) -> list[str]:
        """Return the command lines of `ExecStart=`, with the values of specifiers and of the unit's variables.

        Args:
            read_env_file: A function that reads an env file.

        Raises:
            UsageError: A value of `Environment=` is not valid.
        """
        commands: list[str] = []
        for _, key, value in self._settings:
            if key == "ExecStart":
                # An empty value removes the earlier commands (systemd.service(5)).
                commands = [*commands, value.lstrip("-@:+!")] if value else []
        variables = self._variables(read_env_file)
        return [interpolated(self._expanded(each), lambda name: variables.get(name, "")) for each in commands]

    def mounts(self) -> list[MountUnit]:
        """Return what the unit mounts; more than one element if the text contains several mount units."""
        found: list[dict[str, str]] = []
        for section, key, value in self._settings:
            if section == "Mount" and key in _MOUNT:
                if not found or (key in ("What", "Where") and key in found[-1]):
                    found.append({})
                found[-1][key] = self._expanded(value, {"h": "/root", "u": "root", "f": self._path()})
        return [
            MountUnit(each["What"], each["Where"], each.get("Type", ""), each.get("Options") or "defaults")
            for each in found
            if each.get("What") and each.get("Where")
        ]

    def other_settings(self) -> list[str]:
        """Return the settings except commands and mounts. Omit values of variables, because they can be secrets."""
        return [
            _described(key, value)
            for section, key, value in self._settings
            if key != "ExecStart" and not (section == "Mount" and key in _MOUNT)
        ]

    @property
    def has_commands(self) -> bool:
        """Whether the unit has a section `[Service]`."""
        return any(section == "Service" for section, _, _ in self._settings)

    def _path(self) -> str | None:
        match = _UNIT.fullmatch(self._name)
        return "/" + _unescaped(match["instance"] or match["prefix"]) if match else None

    def _variables(self, read_env_file: EnvFileReader) -> dict[str, str]:
        """Return the variables of the unit. `EnvironmentFile=` overrides `Environment=` (systemd.exec(5))."""
        own: dict[str, str] = {}
        from_files: dict[str, str] = {}
        for _, key, value in self._settings:
            if key == "Environment":
                words = words_of(self._expanded(value), key)
                own |= {name: text for name, _, text in (word.partition("=") for word in words)}
            elif key == "EnvironmentFile":
                from_files |= read_env_file(value.removeprefix("-")) or {}
        return own | from_files

    def _expanded(self, text: str, more: Mapping[str, str | None] | None = None) -> str:
        """Replace the specifiers in the value of a setting. Keep unknown specifiers, and add them to `unknown`.

        Args:
            text: The value of the setting.
            more: Maps specifiers, without `%`, to values that override the defaults. None: the value is unknown.
        """
        values: dict[str, str | None] = {
            "%": "%", "h": "${HOME}", "u": "${USER}", "t": "/run", "S": "/var/lib", "E": "/etc", "T": "/tmp",  # noqa: S108
        }  # fmt: skip
        credentials = {
            name: path
            for _, key, value in self._settings
            if key == "LoadCredential"
            for name, _, path in [value.partition(":")]
            if path
        }
        if match := _UNIT.fullmatch(self._name):
            values |= {"p": match["prefix"], "N": self._name.rpartition(".")[0], "n": self._name}
            if match["instance"]:
                values |= {"i": match["instance"], "I": _unescaped(match["instance"])}
        values |= more or {}

        def replacement(found: re.Match[str]) -> str:
            value = values.get(found[2]) if found[1] is None else credentials.get(found[1])
            if value is None:
                self.unknown[found[0]] = None
            return found[0] if value is None else value

        return re.sub(r"%d/([\w.-]+)|%(.)", replacement, text)


def _unescaped(name: str) -> str:
    r"""Return a part of a unit's name without escapes: `-` represents `/`, and `\xNN` represents a character."""
    escapes = r"(?:\\x[0-9a-f]{2})+"

    def text(found: re.Match[str]) -> str:
        return bytes.fromhex(found[0].replace("\\x", "")).decode(errors="replace")

    return re.sub(escapes, text, name.replace("-", "/"))


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the section, key and value of each setting. Join continuation lines, and skip comments between them."""
    joined = section = ""
    for line in (*text.splitlines(), ""):
        if line.lstrip().startswith(("#", ";")):
            continue
        joined += line.rstrip().removesuffix("\\") + " "
        if line.rstrip().endswith("\\"):
            continue
        key, equals, value = joined.strip().partition("=")
        if header := re.fullmatch(r"\[(.+)\]", joined.strip()):
            section = header[1]
        elif equals:
            yield section, key.rstrip(), value.strip()
        joined = ""


def _described(key: str, value: str) -> str:
    if key != "Environment":
        return f"{key}={value}"
    names = re.findall(r"""(?:^|[\s"'])([A-Za-z_]\w*)=""", value)
    return f"Environment {', '.join(names)}"
