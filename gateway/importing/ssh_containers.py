"""Recognizes containers that run an SSH tunnel, by their command or by the variables of common images."""

import re

from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import HERE, ImportedContainer, SshCommandContext
from gateway.importing.shell_parser import read_script
from gateway.importing.ssh_command import has_forward, import_command, ssh_program
from gateway.importing.ssh_host_config import SshHostConfig
from gateway.importing.ssh_tunnels import add_host
from gateway.secret_redaction import is_private_key, is_secret, redacted

_IMAGE = re.compile(r"(?i)ssh|tunnel|bastion|forward")
_NOT_A_TUNNEL = re.compile(r"(?i)openssh-server|sshd|cloudflared|ngrok|vpn|wireguard|gluetun")
_ARGUMENTS = ("SSH_ARGS", "SSH_ARGUMENTS", "SSH_OPTIONS", "SSH_OPTS", "SSH_COMMAND", "AUTOSSH_ARGS", "AUTOSSH_OPTS")
_SERVER = ("SSH_REMOTE_HOST", "SSH_SERVER", "SSH_HOST_NAME", "SSH_HOSTNAME", "SSH_BASTION_HOST", "BASTION_HOST",
           "JUMP_HOST", "TUNNEL_HOST", "SSH_HOST", "REMOTE_SERVER")  # fmt: skip
_USER = ("SSH_REMOTE_USER", "SSH_HOST_USER", "SSH_BASTION_USER", "BASTION_USER", "TUNNEL_USER", "SSH_USER",
         "SSH_USERNAME", "JUMP_USER", "REMOTE_USER", "USER")  # fmt: skip
_PORT = ("SSH_REMOTE_PORT", "SSH_HOST_PORT", "SSH_BASTION_PORT", "BASTION_PORT", "SSH_PORT", "TUNNEL_PORT")
_TARGET_HOST = ("SSH_TARGET_HOST", "TARGET_HOST", "REMOTE_HOST", "FORWARD_HOST", "DB_HOST", "RDS_HOST")
_TARGET_PORT = ("SSH_TARGET_PORT", "TARGET_PORT", "REMOTE_PORT", "FORWARD_PORT", "DB_PORT", "RDS_PORT")
_LISTEN_PORT = ("SSH_TUNNEL_PORT", "LOCAL_PORT", "BIND_PORT", "LISTEN_PORT")
_LISTEN_HOST = ("SSH_BIND_IP", "BIND_HOST", "BIND_IP", "LOCAL_HOST")
_KEY = ("SSH_KEY_FILE", "SSH_KEY_PATH", "SSH_PRIVATE_KEY_FILE", "SSH_PRIVATE_KEY_PATH", "SSH_IDENTITY_FILE",
        "SSH_KEY_LOCATION", "ID_FILE", "KEY_FILE", "KEY")  # fmt: skip
_KNOWN_HOSTS = ("SSH_KNOWN_HOSTS_FILE", "KNOWN_HOSTS_FILE")
_FORWARD = re.compile(r"(?:[*\w.-]+:)?\d+:[\w.-]+:\d+")
_LINE = re.compile(r"\b(?:auto)?ssh\b(?:(?!\b(?:auto)?ssh\b).)*?\s-\w*[LRD]", re.DOTALL)
"""Matches a shell command that contains ssh with an option for a forward (`-L`, `-R` or `-D`)."""
_KEY_NAME = re.compile(r"(?i)(^|[/_.-])(id_\w+|(\w*_)?key|\w+\.pem|identity)$")


def import_tunnel(container: ImportedContainer, result: ImportResult) -> bool:
    """Import the SSH tunnel and the local forwards of a container. Return False if there is no tunnel to import.

    Args:
        container: The container.
        result: The imported configuration, to which the function adds the tunnels, forwards and notes.

    Raises:
        UsageError: The container's command or variables are not valid.
    """
    context = container_context(container, result)
    found = _by_command(container, context, result) or _by_variables(container, context, result)
    if found:
        container.replaced = True
    return found


def container_context(container: ImportedContainer, result: ImportResult) -> SshCommandContext:
    """Return the context of an ssh command that runs in a container.

    The context converts ports to the addresses at which clients reach them, and paths to paths on the host.
    """

    def names(port: int) -> set[tuple[str, int]]:
        found = {(name, port) for name in container.names}
        found |= {(HERE, host) for inner, host in container.published if inner == port}
        if container.network == "host":
            found.add((HERE, port))
        elif container.network:
            found.add((container.network.partition(":")[2], port))
        return found

    def path(text: str) -> str:
        inside = re.sub(r"^(~|\$\{HOME\})(?=/)", "/root", text)
        outside = container.host_path(inside)
        if outside is None and container.image and not text.startswith(("${HOME}", "/run/secrets/")):
            result.add_note(
                f"{container.where}: {text} is not on a mount; copy the file from the container to this host"
            )
        return outside or text

    return SshCommandContext(container.where, names, path, in_container=True)


def mounted_key(container: ImportedContainer) -> str:
    """Return the path in the container at which a private key is mounted; empty if no key is mounted.

    If no file with the name of a key is mounted, but an SSH directory is mounted, return the path of `id_rsa` in it.
    """
    keys = [mount.target for mount in container.mounts if _KEY_NAME.search(mount.target)]
    if keys:
        return keys[0]
    folder = next((each.target for each in container.mounts if re.search(r"/\.?ssh/?$", each.target)), "")
    return f"{folder.rstrip('/')}/id_rsa" if folder else ""


def _by_command(container: ImportedContainer, context: SshCommandContext, result: ImportResult) -> bool:
    """Convert the ssh commands that a container runs. Return False if no command has a forward."""
    words = container.command
    line = next((word for word in words if _LINE.search(word)), None)
    commands = [words]
    others: list[list[str]] = []
    if line is not None:
        script = [each.words for each in read_script(line).commands]
        commands = [each for each in script if ssh_program(each) is not None and has_forward(each)]
        others = [each for each in script if each not in commands and each[0] not in ("while", "until", "done")]
    elif _is_tunnel_image(container) and words and _FORWARD.fullmatch(words[0]):
        commands = [[word for each in words for word in (["-L", each] if _FORWARD.fullmatch(each) else [each])]]
    elif ssh_program(words) is None and not _is_tunnel_image(container):
        return False
    if not any(has_forward(each) for each in commands):
        return False
    if others:
        result.add_note(f"{container.where}: not imported: {'; '.join(redacted(each) for each in others)}")
    container.use("command", "entrypoint")
    for command in commands:
        _convert(command, container, context, result)
    return True


def _convert(
    words: list[str], container: ImportedContainer, context: SshCommandContext, result: ImportResult
) -> None:
    """Convert an ssh command. If the command specifies no key, use the key that is mounted in the container."""
    key = mounted_key(container)
    if key and not any(re.match(r"-\w*i$|-i.|(-o)?IdentityFile", word) for word in words):
        program = ssh_program(words)
        index = 0 if program is None else program + 1
        at = index + 2 if words[index : index + 1] == ["-M"] else index
        words = [*words[:at], "-i", key, *words[at:]]
    import_command(words, context, result, need_forward=False)


def _is_tunnel_image(container: ImportedContainer) -> bool:
    text = f"{container.image} {container.name}"
    return bool(_IMAGE.search(text)) and not _NOT_A_TUNNEL.search(text)


def _by_variables(container: ImportedContainer, context: SshCommandContext, result: ImportResult) -> bool:
    arguments = [(name, container.environment[name]) for name in _ARGUMENTS if container.environment.get(name)]
    for name, text in arguments:
        words = next((each.words for each in read_script(text).commands), [])
        if any(re.match(r"-\w*[LRD]", word) for word in words):
            container.use(f"environment.{name}")
            _convert(words, container, context, result)
            return True
    if not _is_tunnel_image(container) or not any(name in container.environment for name in _SERVER):
        return False
    forward = _forward(container, result)
    if not forward:
        return False
    config = SshHostConfig(container.variable(*_SERVER))
    config.add("LocalForward", forward)
    for keyword, names in (("User", _USER), ("Port", _PORT), ("UserKnownHostsFile", _KNOWN_HOSTS)):
        if value := container.variable(*names):
            config.add(keyword, value)
    known = next((mount.target for mount in container.mounts if mount.target.endswith("known_hosts")), "")
    if known and "userknownhostsfile" not in config.keywords:
        config.add("UserKnownHostsFile", known)
    _add_login(config, container, result)
    add_host(config, context, result)
    return True


def _add_login(config: SshHostConfig, container: ImportedContainer, result: ImportResult) -> None:
    """Add the paths of a container's SSH key, passphrase and password to the settings of its tunnel.

    If a variable contains a secret instead of a path, choose a path. Then add a note that the user must write the
    secret to this path.
    """
    keys = ("IdentityFile", "PassphraseFile", "PasswordFile")
    for name, value in container.environment.items():
        if not value or not (is_secret(name) or (name in _KEY and is_private_key(value))):
            continue
        kind = 1 if "PASSPHRASE" in name.upper() else 0 if "KEY" in name.upper() or is_private_key(value) else 2
        if keys[kind].lower() in config.keywords:
            continue
        path = f"/run/secrets/{container.name or 'ssh'}_{('key', 'passphrase', 'password')[kind]}"
        config.add(keys[kind], path)
        container.use(f"environment.{name}")
        result.add_note(f"{container.where}: write the value of {name} to {path}")
    if "identityfile" not in config.keywords and (key := container.variable(*_KEY) or mounted_key(container)):
        config.add("IdentityFile", key)


def _forward(container: ImportedContainer, result: ImportResult) -> str:
    """Return the local forward that the container's variables describe; empty if they describe no forward."""
    mode = container.variable("SSH_MODE", "MODE")
    if mode == "-R" or (not mode and "jnovack/autossh" in container.image) or container.variable("REMOTE"):
        result.add_note(f"{container.where}: a remote forward (-R) is not imported; only local forwards are imported")
        return ""
    if "SSH_SERVER" in container.environment and "SSH_TUNNEL_PORT" in container.environment:
        target = container.variable("SSH_TUNNEL_HOST") or "127.0.0.1"
        return f"*:10000:{target}:{container.variable('SSH_TUNNEL_PORT')}"
    host, port = container.variable(*_TARGET_HOST) or "127.0.0.1", container.variable(*_TARGET_PORT)
    if not port:
        return ""
    listen = container.variable(*_LISTEN_PORT) or port
    return f"{container.variable(*_LISTEN_HOST) or '*'}:{listen}:{host}:{port}"
