"""Stores the ssh_config settings for one host, and converts them to the configuration keys of a tunnel."""

import re
from dataclasses import dataclass, field
from typing import Any

from gateway.importing.import_result import ImportResult
from gateway.importing.model import SshCommandContext, home
from gateway.importing.ssh_forward import port_number

_KNOWN_HOSTS = "~/.ssh/known_hosts"
_USER = "${USER}"


@dataclass
class SshHostConfig:
    """The ssh settings for one host, from an ssh command or an ssh_config file.

    Args:
        destination: The server, as `[user@]host` or an `ssh://` URL.
        keywords: The values of each ssh_config keyword, in the order in which they are set. Keys are in lower case.
        unused: The keywords that the import has not read: from lower case to the spelling in the source.
    """

    destination: str = ""
    keywords: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: str) -> None:
        """Add a value to a keyword, after the values that it already has."""
        self.keywords.setdefault(key.lower(), []).append(value)
        self.unused.setdefault(key.lower(), key)

    def first(self, key: str, otherwise: str = "") -> str:
        """Return the first value of a keyword, which is the one that ssh uses, and mark the keyword as read."""
        return (self.all(key) or [otherwise])[0]

    def all(self, key: str) -> list[str]:
        """Return all values of a keyword, and mark the keyword as read."""
        self.unused.pop(key, None)
        return self.keywords.get(key, [])


def server_keys(
    config: SshHostConfig, via: str | None, context: SshCommandContext, result: ImportResult, command: SshHostConfig
) -> dict[str, Any]:
    """Return the configuration keys of a tunnel to a server.

    Args:
        config: The settings of the connection to the server.
        via: The name of the tunnel through which the gateway reaches the server; None for a direct connection.
        context: The context in which ssh runs.
        result: Receives notes.
        command: The settings of the whole ssh command. For the server behind all jump hosts, this is `config`.
    """
    user, host, port = _address(config, command)
    if not user:
        user = _USER
        result.add_note(f"{context.where}: no user is set, so the configuration uses ${{USER}} from the environment")
    keys: dict[str, Any] = {"kind": "ssh"}
    if via is not None:
        keys["via"] = via
    keys["host"] = host
    if port and port != "22":
        keys["port"] = port_number(port)
    keys["user"] = user
    keys |= _login(config, context, result, command)
    known = [each for each in config.first("userknownhostsfile", _KNOWN_HOSTS).split() if each != "/dev/null"]
    keys["known_hosts"] = [context.path(home(each)) for each in known or [_KNOWN_HOSTS]]
    if context.in_container and keys["known_hosts"] == [home(_KNOWN_HOSTS)]:
        result.add_note(f"{context.where}: add the key of {keys['host']} to known_hosts of this host (ssh-keyscan)")
    if alias := config.first("hostkeyalias"):
        keys["host_key_alias"] = alias
    if re.fullmatch("[0-9]{1,5}", timeout := config.first("connecttimeout")) and int(timeout):
        keys["connect_timeout"] = f"{timeout}s"
    return keys


def expand_tokens(text: str, config: SshHostConfig, command: SshHostConfig) -> str:
    """Replace the tokens of ssh_config(5) that a jump host can contain: `%h`, `%n`, `%p`, `%r` and `%%`.

    Args:
        text: The value of ProxyJump, or the jump host in a ProxyCommand.
        config: The settings of the connection to the server behind the jump host.
        command: The settings of the whole ssh command.
    """
    user, host, port = _address(config, command)
    values = {"h": host, "n": destination_host(config), "p": port or "22", "r": user or _USER, "%": "%"}
    return re.sub(r"%([hnpr%])", lambda match: values[match[1]], text)


def destination_host(config: SshHostConfig) -> str:
    """Return the host that the command line contains, which can be an alias from ssh_config."""
    host = config.destination.removeprefix("ssh://").rstrip("/").rpartition("@")[2]
    return re.sub(r":\d+$", "", host).strip("[]")


def _address(config: SshHostConfig, command: SshHostConfig) -> tuple[str, str, str]:
    """Return the user, the host and the port of a server; the user and the port are empty if they are not set.

    The arguments are those of `server_keys`.
    """
    user, at, host = config.destination.removeprefix("ssh://").rstrip("/").rpartition("@")
    port = config.first("port")
    if match := re.fullmatch(r"(\[.+\]|[^:]+):(\d+)", host):
        host, port = match[1], match[2] if config is not command or "://" in config.destination else port
    host = host.strip("[]")
    user = user if at else config.first("user")
    return user, config.first("hostname", host).replace("%h", host), port


def _login(
    config: SshHostConfig, context: SshCommandContext, result: ImportResult, command: SshHostConfig
) -> dict[str, Any]:
    """Return the configuration keys with the credentials for a server. The arguments are those of `server_keys`."""
    keys: dict[str, Any] = {}
    identities = config.all("identityfile") or command.all("identityfile")
    if identities:
        keys["identity_files"] = list(dict.fromkeys(context.path(home(each)) for each in identities))
    if certificates := config.all("certificatefile"):
        keys["certificate_files"] = [context.path(home(each)) for each in certificates]
    if passphrase_file := config.first("passphrasefile"):
        keys["passphrase_file"] = passphrase_file
    if password_file := config.first("passwordfile"):
        keys["password_file"] = password_file
    elif agent := config.first("identityagent"):
        keys["agent"] = home(agent)
    elif not identities:
        keys["agent"] = "${SSH_AUTH_SOCK}"
        result.add_note(
            f"{context.where}: no key is set, so the configuration uses the SSH agent; if there is no agent, write"
            ' identity_files: ["${HOME}/.ssh/KEY"] instead of agent'
        )
    return keys
