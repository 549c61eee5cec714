"""Stores the ssh_config settings for one host, and converts them to the configuration keys of a tunnel."""

import re
from dataclasses import dataclass, field
from typing import Any

from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import SshCommandContext, home
from gateway.importing.ssh_forward import port_number

_KNOWN_HOSTS = "~/.ssh/known_hosts"
_USER = "${USER}"


@dataclass
class SshHostConfig:
    """The ssh settings for one host, from an ssh command or an ssh_config file.

    Args:
        destination: The server, as `[user@]host` or an `ssh://` URL.
        keywords: Maps each ssh_config keyword, in lower case, to its values in the order of the source.
        unused: Maps each keyword that is not read yet, in lower case, to its spelling in the source.
    """

    destination: str = ""
    keywords: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: str) -> None:
        """Add a value to a keyword, after its existing values."""
        self.keywords.setdefault(key.lower(), []).append(value)
        self.unused.setdefault(key.lower(), key)

    def first(self, key: str, otherwise: str = "") -> str:
        """Return the first value of a keyword, and mark the keyword as read.

        For most keywords, ssh uses only the first value. If there is no value, return `otherwise`.
        """
        return (self.all(key) or [otherwise])[0]

    def all(self, key: str) -> list[str]:
        """Return all values of a keyword, and mark the keyword as read."""
        self.unused.pop(key, None)
        return self.keywords.get(key, [])


def server_keys(
    config: SshHostConfig,
    via: str | None,
    context: SshCommandContext,
    result: ImportResult,
    command: SshHostConfig,
) -> dict[str, Any]:
    """Return the configuration keys of a tunnel to a server.

    Args:
        config: The settings of the connection to the server.
        via: The name of the tunnel through which the gateway reaches the server; None for a direct connection.
        context: The environment in which ssh runs.
        result: The imported configuration, to which the function adds notes.
        command: The settings of the ssh command's destination. They differ from `config` only if `config` is for a
            jump host.
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
    known = [each for each in config.first("userknownhostsfile").split() if each not in ("/dev/null", "none")]
    keys["known_hosts"] = _paths("UserKnownHostsFile", known or [_KNOWN_HOSTS], config, context, result, command)
    if context.in_container and keys["known_hosts"] == [home(_KNOWN_HOSTS)]:
        result.add_note(
            f"{context.where}: add the host key of {keys['host']} to known_hosts on this host (ssh-keyscan)"
        )
    if alias := config.first("hostkeyalias"):
        keys["host_key_alias"] = alias
    if re.fullmatch("[0-9]{1,5}", timeout := config.first("connecttimeout")) and int(timeout):
        keys["connect_timeout"] = f"{timeout}s"
    return keys


def expand_tokens(text: str, config: SshHostConfig, command: SshHostConfig) -> str:
    """Replace the tokens `%h`, `%k`, `%n`, `%p`, `%r`, `%u` and `%%` of ssh_config(5) with values from the settings.

    Args:
        text: The value of a keyword, or the jump host in a ProxyCommand.
        config: The settings whose values replace the tokens. To expand the name of a jump host, pass the settings of
            the server behind the jump host.
        command: See `server_keys`.
    """
    user, host, port = _address(config, command)
    name = destination_host(config)
    values = {"h": host, "n": name, "p": port or "22", "r": user or _USER, "u": _USER, "%": "%"}
    values["k"] = (config.keywords.get("hostkeyalias") or [name])[0]
    return re.sub(r"%([hknpru%])", lambda match: values[match[1]], text)


def destination_host(config: SshHostConfig) -> str:
    """Return the host in the destination, as written. It can be an alias that ssh_config maps to a host name."""
    host = config.destination.removeprefix("ssh://").rstrip("/").rpartition("@")[2]
    return re.sub(r":\d+$", "", host).strip("[]")


def _address(config: SshHostConfig, command: SshHostConfig) -> tuple[str, str, str]:
    """Return the user, the host and the port of a server; the user and the port are empty if they are not set.

    For the arguments, see `server_keys`.
    """
    user, at, host = config.destination.removeprefix("ssh://").rstrip("/").rpartition("@")
    port = config.first("port")
    if match := re.fullmatch(r"(\[.+\]|[^:]+):(\d+)", host):
        host, port = match[1], match[2] if config is not command or "://" in config.destination else port
    host = host.strip("[]")
    user = user if at else config.first("user").replace("%u", _USER)
    return user, config.first("hostname", host).replace("%h", host), port


def _login(
    config: SshHostConfig, context: SshCommandContext, result: ImportResult, command: SshHostConfig
) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    given = config.all("identityfile") or command.all("identityfile")
    identities = [each for each in given if each != "none"]
    if identities and config is not command and not config.keywords.get("identityfile"):
        result.add_note(
            f"{context.where}: the tunnel to the jump host {destination_host(config)} uses the key of the"
            " destination, although ssh would not use this key for the jump host: correct the tunnel's identity_files"
            " if the jump host requires another key"
        )
    if identities:
        keys["identity_files"] = _paths("IdentityFile", identities, config, context, result, command)
    if certificates := config.all("certificatefile"):
        keys["certificate_files"] = _paths("CertificateFile", certificates, config, context, result, command)
    if passphrase_file := config.first("passphrasefile"):
        keys["passphrase_file"] = passphrase_file
    if password_file := config.first("passwordfile"):
        keys["password_file"] = password_file
    elif (agent := config.first("identityagent")) not in ("", "none", "SSH_AUTH_SOCK"):
        keys["agent"] = _path("IdentityAgent", agent, config, context, result, command)
    elif not identities:
        keys["agent"] = "${SSH_AUTH_SOCK}"
        result.add_note(
            f"{context.where}: no key is set, so the configuration uses the SSH agent; if there is no agent, name a"
            " key in the source (`-i KEY` or `IdentityFile KEY`), and import again"
        )
    return keys


def _paths(
    keyword: str,
    values: list[str],
    config: SshHostConfig,
    context: SshCommandContext,
    result: ImportResult,
    command: SshHostConfig,
) -> list[str]:
    paths = [context.path(_path(keyword, each, config, context, result, command)) for each in values]
    return list(dict.fromkeys(paths))


def _path(
    keyword: str,
    value: str,
    config: SshHostConfig,
    context: SshCommandContext,
    result: ImportResult,
    command: SshHostConfig,
) -> str:
    """Expand the tokens of ssh_config(5) in a path. Add a note on tokens that have no equivalent in the gateway."""
    path = expand_tokens(home(value), config, command)
    unknown = [each for each in re.findall("%.", home(value)) if expand_tokens(each, config, command) == each]
    if unknown:
        result.add_note(
            f"{context.where}: {keyword} {value}: the gateway has no equivalent of {', '.join(unknown)}; in the"
            " configuration of the tunnel, write the value instead"
        )
    return path
