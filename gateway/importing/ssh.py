"""Converts the settings of an SSH client (ssh(1), ssh_config(5)) to tunnels and forwards."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.importing.model import ImportContext, ImportedForward, home
from gateway.importing.proxy_command import jump_or_proxy
from gateway.importing.result import ImportResult, split_target
from gateway.importing.ssh_forward import port_number, read_forward

_KNOWN_HOSTS = "~/.ssh/known_hosts"
_USER = "${USER}"
_UNNECESSARY = frozenset({
    "addkeystoagent", "batchmode", "checkhostip", "compression", "connectionattempts", "controlmaster", "controlpath",
    "controlpersist", "exitonforwardfailure", "forkafterauthentication", "forwardagent", "forwardx11",
    "hashknownhosts", "identitiesonly", "ipqos", "kbdinteractiveauthentication", "loglevel", "passwordauthentication",
    "preferredauthentications", "pubkeyauthentication", "requesttty", "serveralivecountmax", "serveraliveinterval",
    "sessiontype", "stdinnull", "streamlocalbindunlink", "tcpkeepalive", "updatehostkeys", "visualhostkey",
})  # fmt: skip
"""Keywords of ssh_config that need no equivalent in the gateway's configuration."""
_ALGORITHMS = {
    "ciphers": "ciphers",
    "macs": "macs",
    "kexalgorithms": "kex",
    "hostkeyalgorithms": "host_key_algorithms",
}
"""The configuration key of a tunnel for each ssh_config keyword that lists algorithms."""


@dataclass
class HostConfig:
    """The settings of one ssh command, or of one host in an ssh_config file.

    Args:
        destination: The server, as `[user@]host` or an `ssh://` URL.
        keywords: The values of each ssh_config keyword, in their original order. The keywords are in lower case.
        unused: The original spelling of each keyword that the import has not read.
    """

    destination: str = ""
    keywords: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: str) -> None:
        """Append a value to those of a keyword."""
        self.keywords.setdefault(key.lower(), []).append(value)
        self.unused.setdefault(key.lower(), key)

    def first(self, key: str, otherwise: str = "") -> str:
        """Return the first value of a keyword. ssh ignores later values."""
        return (self.all(key) or [otherwise])[0]

    def all(self, key: str) -> list[str]:
        """Return all values of a keyword, and mark the keyword as read."""
        self.unused.pop(key, None)
        return self.keywords.get(key, [])


def add_host(
    config: HostConfig,
    context: ImportContext,
    result: ImportResult,
    look_up: Callable[[str], HostConfig] = HostConfig,
) -> str:
    """Add the tunnels to a server and to its jump hosts, and the local forwards of the ssh command.

    Args:
        config: The settings of the connection to the server.
        context: The environment in which ssh runs.
        result: Receives tunnels, forwards and notes.
        look_up: Returns the settings of the jump host with the given name.

    Returns:
        The name of the tunnel to the server.

    Raises:
        UsageError: A setting is not valid.
    """
    via, where = None, context.where
    jumps = config.first("proxyjump")
    if command := config.first("proxycommand"):
        proxy = jump_or_proxy(command)
        jumps = jumps or proxy.jump
        if proxy.url:
            via = result.add_tunnel({"kind": "proxy", "url": proxy.url}, proxy.url.rpartition("//")[2].split(":")[0])
        elif not proxy.jump and command != "none":
            result.add_note(
                f"{where}: ProxyCommand {command}: not imported; use ProxyJump or a tunnel of another kind"
            )
    for jump in filter(None, jumps.split(",")):
        if jump != "none":
            keys = _server(look_up(jump), via, context, result, config)
            via = result.add_tunnel(keys, keys["host"])
    keys = _server(config, via, context, result, config)
    name = result.add_tunnel(keys, keys["host"])
    any_address = config.first("gatewayports").lower() in ("yes", "true")
    for forward in config.all("localforward"):
        listen, target = read_forward(forward, any_address=any_address)
        reachable = set() if listen.startswith("/") else context.names(split_target(listen)[1])
        result.forwards.append(ImportedForward(where, name, listen, target, reachable))
    unchecked = [
        f"{key} {value}"
        for key, value, weak in (
            ("StrictHostKeyChecking", config.first("stricthostkeychecking"), ("no", "off", "accept-new")),
            ("UserKnownHostsFile", config.first("userknownhostsfile"), ("/dev/null",)),
        )
        if value.lower() in weak
    ]
    if unchecked:
        result.add_note(
            f"tunnels.{name}: host keys are always checked ({', '.join(unchecked)} is not imported): add the server's"
            " key to known_hosts (ssh-keyscan)"
        )
    note_unused(config, where, name, result)
    return name


def note_unused(config: HostConfig, where: str, name: str, result: ImportResult) -> None:
    """Add notes on the settings that the import has not read.

    Args:
        config: The settings.
        where: The name of the settings in notes.
        name: The name of the tunnel.
        result: Receives the notes.
    """
    unnecessary: list[str] = []
    for key, spelling in config.unused.items():
        values = ", ".join(config.keywords[key])
        if key in ("remoteforward", "dynamicforward"):
            result.add_note(f"{where}: {spelling} {values}: not imported; only local forwards are")
        elif key in _ALGORITHMS:
            target = f"tunnels.{name}.{_ALGORITHMS[key]}"
            result.add_note(f"{where}: {spelling} {values}: not imported; set {target} if the server needs it")
        elif key in _UNNECESSARY:
            unnecessary.append(f"{spelling} {values}".strip())
        else:
            result.add_note(f"{where}: {spelling} {values}: not imported")
    if unnecessary:
        result.add_note(f"{where}: not needed with the gateway: {'; '.join(unnecessary)}")


def _server(
    config: HostConfig, via: str | None, context: ImportContext, result: ImportResult, command: HostConfig
) -> dict[str, Any]:
    """Return the configuration keys of a tunnel to a server.

    Args:
        config: The settings of the connection to the server.
        via: The name of the tunnel through which the gateway reaches the server; None for a direct connection.
        context: The environment in which ssh runs.
        result: Receives notes.
        command: The settings of the whole ssh command. For a jump host, they differ from `config`.
    """
    address = config.destination.removeprefix("ssh://").rstrip("/")
    user, at, host = address.rpartition("@")
    port = config.first("port")
    if match := re.fullmatch(r"(\[.+\]|[^:]+):(\d+)", host):
        host, port = match[1], match[2] if config is not command or "://" in config.destination else port
    host = host.strip("[]")
    user = user if at else config.first("user")
    if not user:
        user = _USER
        result.add_note(f"{context.where}: names no user: the configuration uses ${{USER}} from the environment")
    keys: dict[str, Any] = {"kind": "ssh"}
    if via is not None:
        keys["via"] = via
    keys["host"] = config.first("hostname", host).replace("%h", host)
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


def _login(config: HostConfig, context: ImportContext, result: ImportResult, command: HostConfig) -> dict[str, Any]:
    """Return the configuration keys that log in to a tunnel's server. The arguments are those of `_server`."""
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
            f"{context.where}: names no key: the configuration uses the SSH agent; a service needs its own key"
        )
    return keys
