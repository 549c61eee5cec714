"""Converts ssh commands and ssh_config hosts to tunnels and local forwards. Each jump host becomes a tunnel too."""

import re
from collections.abc import Callable
from typing import Any

from gateway.errors import UsageError
from gateway.importing.import_result import ImportResult, split_target
from gateway.importing.imported_setup import ImportedLocalForward, SshCommandContext
from gateway.importing.proxy_command import parse_proxy_command, program
from gateway.importing.ssh_forward import read_forward
from gateway.importing.ssh_host_config import SshHostConfig, destination_host, expand_tokens, server_keys
from gateway.secret_redaction import hide_secrets

_UNNECESSARY = frozenset({
    "addkeystoagent", "batchmode", "checkhostip", "compression", "connectionattempts", "controlmaster", "controlpath",
    "controlpersist", "exitonforwardfailure", "forkafterauthentication", "forwardagent", "forwardx11",
    "hashknownhosts", "identitiesonly", "ipqos", "kbdinteractiveauthentication", "loglevel", "passwordauthentication",
    "preferredauthentications", "pubkeyauthentication", "requesttty", "serveralivecountmax", "serveraliveinterval",
    "sessiontype", "stdinnull", "streamlocalbindunlink", "tcpkeepalive", "updatehostkeys", "visualhostkey",
})  # fmt: skip
"""Keywords of ssh_config that need no equivalent in the gateway's configuration."""
_MAX_JUMPS = 8
_ALGORITHMS = {
    "ciphers": "ciphers",
    "macs": "macs",
    "kexalgorithms": "kex",
    "hostkeyalgorithms": "host_key_algorithms",
}
"""For each ssh_config keyword about algorithms: the equivalent configuration key of a tunnel."""


def add_host(
    config: SshHostConfig,
    context: SshCommandContext,
    result: ImportResult,
    look_up: Callable[[str], SshHostConfig] = SshHostConfig,
) -> str:
    """Import an SSH server: add its tunnel, a tunnel for each of its jump hosts, and the local forwards.

    Args:
        config: The settings of the connection to the server.
        context: The environment in which ssh runs.
        result: The imported configuration, to which the function adds tunnels, forwards and notes.
        look_up: A function that returns the settings of the jump host with the given name.

    Returns:
        The name of the tunnel to the server.

    Raises:
        UsageError: A setting is not valid.
    """
    where = context.where
    via, program_keys = _path(config, context, result, look_up, config)
    keys = server_keys(config, via, context, result, config) | program_keys
    name = result.add_tunnel(keys, _alias(config) or keys["host"])
    any_address = config.first("gatewayports").lower() in ("yes", "true")
    for forward in config.all("localforward"):
        listen, target = read_forward(expand_tokens(forward, config, config), any_address=any_address)
        reachable = set() if listen.startswith("/") else context.names(split_target(listen)[1])
        result.forwards.append(ImportedLocalForward(where, name, listen, target, reachable))
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


def _path(
    config: SshHostConfig,
    context: SshCommandContext,
    result: ImportResult,
    look_up: Callable[[str], SshHostConfig],
    command: SshHostConfig,
    depth: int = 0,
) -> tuple[str | None, dict[str, Any]]:
    """Add the tunnels through which ssh reaches a server.

    Args:
        config: The settings of the connection to the server.
        context: The environment in which ssh runs.
        result: The imported configuration, to which the function adds tunnels and notes.
        look_up: A function that returns the settings of the jump host with the given name.
        command: The settings of the ssh command's destination. They differ from `config` only if `config` is for a
            jump host.
        depth: Number of nested jump hosts: 0 for the server of the command, 1 for its jump host, and so on.

    Returns:
        The name of the tunnel through which ssh reaches the server (None if ssh uses no tunnel), and the result of
        `_program_keys` (empty if no ProxyCommand runs a program).
    """
    names = {"proxyjump": "ProxyJump", "proxycommand": "ProxyCommand"}
    key, *ignored = [each for each in config.keywords if each in names] or [""]
    value = config.first(key)
    for each in ignored:  # ssh uses ProxyJump or ProxyCommand, whichever is set first (ssh_config(5))
        result.add_note(
            f"{context.where}: {names[each]} {config.first(each)}: not imported; {names[key]} comes first, so ssh"
            " ignores this one"
        )
    if value.lower() in ("", "none"):
        if value:
            result.add_note(f"{context.where}: not needed with the gateway: {names[key]} {value}")
        return None, {}
    if key == "proxycommand":
        proxy = parse_proxy_command(value)
        if proxy.url:
            keys = {"kind": "proxy", "url": proxy.url}
            return result.add_tunnel(keys, proxy.url.rpartition("//")[2].split(":")[0]), {}
        if not proxy.jump:
            return None, _program_keys(value, config, context, result)
        value = proxy.jump
    value = expand_tokens(value, config, command)
    if unknown := re.findall("%.", value):
        where = f"{context.where}: {names[key]} {value}"
        result.add_note(
            f"{where}: the gateway has no equivalent of {', '.join(unknown)}; in the configuration of the"
            " tunnel, write the value instead"
        )
    via: str | None = None
    for number, jump in enumerate(filter(None, value.split(","))):
        settings = look_up(jump)
        program_keys: dict[str, Any] = {}
        if number == 0 and depth < _MAX_JUMPS:
            via, program_keys = _path(settings, context, result, look_up, command, depth + 1)
        keys = server_keys(settings, via, context, result, command) | program_keys
        via = result.add_tunnel(keys, _alias(settings) or keys["host"])
    return via, {}


def _program_keys(
    command: str, config: SshHostConfig, context: SshCommandContext, result: ImportResult
) -> dict[str, Any]:
    """Return the configuration keys for a ProxyCommand that uses neither a jump host nor a proxy.

    If the command contains a secret, return no keys, so that the imported configuration does not contain the secret.

    Raises:
        UsageError: The command cannot be parsed.
    """
    where = f"{context.where}: ProxyCommand {command}"
    if hide_secrets(command) != command:
        result.add_note(
            f"{where}: not imported, because the command contains a secret; use a file or a variable instead"
        )
        return {}
    try:
        found = program(command, destination_host(config))
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if found.unknown:
        unknown = ", ".join(found.unknown)
        result.add_note(f"{where}: the gateway has no equivalent of {unknown}; write the value into proxy_command")
    if found.braces:
        result.add_note(
            f"{where}: the gateway would read {', '.join(found.braces)} as a placeholder, so the import added spaces"
            " inside the braces in proxy_command; verify that the program still works"
        )
    if found.needs_shell:
        result.add_note(
            f"{where}: proxy_command runs sh -c, because the command contains shell syntax; if possible, replace it"
            " with a list of words"
        )
    result.add_note(
        f"{where}: the program gets only the environment variables PATH, HOME, USER, LOGNAME, TZ and the locale; if"
        " the program needs other variables, add their names to the configuration key `environment`"
    )
    keys: dict[str, Any] = {"proxy_command": list(found.words)}
    return keys | ({"environment": list(found.environment)} if found.environment else {})


def _alias(config: SshHostConfig) -> str:
    """Return the host in the destination if HostName maps it to another host; otherwise, return an empty string."""
    return destination_host(config) if config.first("hostname") else ""


def note_unused(config: SshHostConfig, where: str, name: str, result: ImportResult) -> None:
    """Add notes on the settings that the import has not read.

    Args:
        config: The settings.
        where: The source of the settings, such as an ssh command. Each note starts with this text.
        name: The name of the tunnel.
        result: The imported configuration, to which the function adds the notes.
    """
    unnecessary: list[str] = []
    for key, spelling in config.unused.items():
        values = ", ".join(config.keywords[key])
        if key in ("remoteforward", "dynamicforward"):
            result.add_note(f"{where}: {spelling} {values}: not imported; only local forwards are imported")
        elif key in _ALGORITHMS:
            target = f"tunnels.{name}.{_ALGORITHMS[key]}"
            result.add_note(f"{where}: {spelling} {values}: not imported; set {target} if the server needs it")
        elif key in _UNNECESSARY:
            unnecessary.append(f"{spelling} {values}".strip())
        else:
            result.add_note(f"{where}: {spelling} {values}: not imported")
    if unnecessary:
        result.add_note(f"{where}: not needed with the gateway: {'; '.join(unnecessary)}")
