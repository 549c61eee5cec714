"""Parses the options of `docker run`, and the values of `-v` and `--mount` (docker-run(1))."""

import csv
import difflib
from collections.abc import Iterator

from gateway.errors import UsageError
from gateway.importing.imported_setup import ImportedMount

_SHORT = {
    "a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive", "l": "label",
    "m": "memory", "P": "publish-all", "p": "publish", "q": "quiet", "t": "tty", "u": "user", "v": "volume",
    "w": "workdir",
}  # fmt: skip
_SWITCHES = frozenset({
    "detach", "disable-content-trust", "help", "init", "interactive", "no-healthcheck", "no-resolve-image",
    "oom-kill-disable", "privileged", "publish-all", "quiet", "read-only", "rm", "sig-proxy", "tty",
    "with-registry-auth",
    "env-host", "http-proxy", "no-hostname", "no-hosts", "read-only-tmpfs", "replace", "rmi", "tls-verify",
})  # fmt: skip
"""Options without a value. Those in the last line are options of podman-run(1)."""
_WITH_VALUE = frozenset({
    "add-host", "annotation", "attach", "blkio-weight", "blkio-weight-device", "cap-add", "cap-drop", "cgroup-parent",
    "cgroupns", "cidfile", "cpu-count", "cpu-percent", "cpu-period", "cpu-quota", "cpu-rt-period", "cpu-rt-runtime",
    "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "detach-keys", "device", "device-cgroup-rule",
    "device-read-bps", "device-read-iops", "device-write-bps", "device-write-iops", "dns", "dns-option", "dns-search",
    "domainname", "entrypoint", "env", "env-file", "expose", "gpus", "group-add", "health-cmd", "health-interval",
    "health-retries", "health-start-interval", "health-start-period", "health-timeout", "hostname", "ip", "ip6",
    "ipc", "isolation", "label", "label-file", "link", "link-local-ip", "log-driver", "log-opt", "mac-address",
    "memory", "memory-reservation", "memory-swap", "memory-swappiness", "mount", "name", "net", "net-alias",
    "network", "network-alias", "oom-score-adj", "pid", "pids-limit", "platform", "publish", "pull", "restart",
    "runtime", "security-opt", "shm-size", "stop-signal", "stop-timeout", "storage-opt", "sysctl", "tmpfs", "ulimit",
    "user", "userns", "uts", "volume", "volume-driver", "volumes-from", "workdir",
})  # fmt: skip
_SERVICE_ONLY = frozenset({"replicas", "mode", "constraint", "placement-pref", "secret", "config", "limit-memory"})
"""Options of `docker service create` that `docker run` does not have."""
_INVALID = frozenset({"opt", "driver", "o"})
"""Options of `docker volume create` that users pass to `docker run` by mistake. The import corrects them."""


def read_options(words: list[str], notes: list[str], where: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Parse the words of a `docker run` command.

    Args:
        words: The words after `run`.
        notes: Receives a note for each unknown option.
        where: The source and name of the command, with which each note starts.

    Returns:
        The options by their long names, and the remaining words: the image and the command.

    Raises:
        UsageError: An option that requires a value has none.
    """
    found: list[tuple[str, str]] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name not in _SWITCHES:
                value = _value(rest, word)
            if name not in _SWITCHES | _WITH_VALUE | _SERVICE_ONLY | _INVALID:
                close = difflib.get_close_matches(name, _SWITCHES | _WITH_VALUE, 1)
                hint = f": did you mean --{close[0]}?" if close else ""
                notes.append(f"{where}: there is no option --{name}{hint}")
            found.append(({"net": "network", "net-alias": "network-alias"}.get(name, name), value))
        else:
            found += _short_options(word, rest, notes, where)
    return found, rest


def _short_options(word: str, rest: list[str], notes: list[str], where: str) -> Iterator[tuple[str, str]]:
    for index, letter in enumerate(word[1:], 1):
        name = _SHORT.get(letter, letter)
        if letter not in _SHORT and letter not in _INVALID:
            notes.append(f"{where}: there is no option -{letter}")
        if name in _SWITCHES:
            yield name, ""
        else:
            yield name, word[index + 1 :].removeprefix("=") or _value(rest, word)
            return


def _value(rest: list[str], word: str) -> str:
    if not rest:
        raise UsageError(f"docker run: {word} needs a value")
    return rest.pop(0)


def read_bind(text: str) -> ImportedMount:
    """Parse a value of `-v`, or an entry of `volumes` in the short syntax of Compose."""
    parts = text.split(":")
    if len(parts) == 1:
        return ImportedMount("", parts[0])
    if len(parts) > 3:
        parts = [":".join(parts[:-2]), *parts[-2:]]
    options = parts[2].split(",") if len(parts) == 3 else []
    return ImportedMount(parts[0], parts[1], read_only="ro" in options)


def read_mount(text: str) -> tuple[ImportedMount, dict[str, str], dict[str, str]]:
    """Parse a value of `--mount`.

    Returns:
        The mount, the driver options of the mount's volume, and all fields of the value.

    Raises:
        UsageError: The value has no target.
    """
    fields: dict[str, str] = {}
    options: dict[str, str] = {}
    for part in next(csv.reader([text])):
        key, _, value = part.partition("=")
        if key == "volume-opt":
            name, _, setting = value.partition("=")
            options[name] = setting
        else:
            fields[key] = value
    target = fields.get("target") or fields.get("dst") or fields.get("destination")
    if not target:
        raise UsageError(f"--mount {text}: target= is missing: add it")
    read_only = any(fields.get(key, "false") in ("", "1", "true") for key in ("readonly", "ro"))
    return (
        ImportedMount(fields.get("source") or fields.get("src") or "", target, read_only=read_only),
        options,
        fields,
    )
