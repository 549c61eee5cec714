"""Imports SSH tunnels from the environment variables of applications that open their own tunnel."""

from typing import Any

from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedContainer
from gateway.importing.ssh_containers import container_context, mounted_key
from gateway.importing.ssh_forward import port_number
from gateway.secret_redaction import is_private_key

_HOSTS = ("SSH_HOST", "SSH_HOSTNAME", "SSH_SERVER", "SSH_BASTION_HOST", "SSH_TUNNEL_HOST", "BASTION_HOST",
         "JUMP_HOST", "TUNNEL_HOST")  # fmt: skip
_KEYS = ("SSH_KEY_PATH", "SSH_PRIVATE_KEY_PATH", "SSH_KEY_FILE", "SSH_PRIVATE_KEY_FILE", "SSH_IDENTITY_FILE",
         "SSH_KEY", "SSH_PRIVATE_KEY", "BASTION_KEY_PATH", "BASTION_KEY")  # fmt: skip
_USERS = ("SSH_USER", "SSH_USERNAME", "BASTION_USER", "JUMP_USER", "TUNNEL_USER")


def import_application_tunnel(
    container: ImportedContainer, database: str, variable_of_host: str, result: ImportResult
) -> str | None:
    """Import the SSH tunnel of an application that opens its own tunnel. Return the tunnel's name.

    Return None if the application opens no tunnel.

    Args:
        container: The container.
        database: The host name of the database. If no variable contains the SSH server, the tunnel uses this host as
            the SSH server.
        variable_of_host: The name of the variable that contains the host name of the database.
        result: The imported configuration, to which the function adds the tunnel and notes.
    """
    variable = container.variable
    if not any(container.environment.get(name) for name in (*_HOSTS, *_KEYS, *_USERS)):
        return None
    server = variable(*_HOSTS)
    if not server:
        server = database
        result.add_note(
            f"{container.where}: no variable contains the SSH server, so the configuration uses {server} from"
            f" {variable_of_host}; if there is a bastion, set `host` of the tunnel to it"
        )
    keys: dict[str, Any] = {"kind": "ssh", "host": server}
    port = variable("SSH_PORT", "BASTION_PORT", "SSH_TUNNEL_PORT")
    if port not in ("", "22"):
        keys["port"] = port if port.startswith("${") else port_number(port)
    keys["user"] = variable(*_USERS) or "${USER}"
    if keys["user"] == "${USER}":
        result.add_note(f"{container.where}: no variable contains the SSH user, so the configuration uses ${{USER}}")
    keys |= _login(container, result)
    keys["known_hosts"] = ["${HOME}/.ssh/known_hosts"]
    result.add_note(f"{container.where}: add the key of {server} to known_hosts of this host (ssh-keyscan)")
    return result.add_tunnel(keys, server)


def _login(container: ImportedContainer, result: ImportResult) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    context, variable = container_context(container, result), container.variable
    path = variable(*_KEYS)
    if is_private_key(path) or (path and "/" not in path):
        path = f"/run/secrets/{container.name or 'ssh'}_key"
        result.add_note(f"{container.where}: write the application's private SSH key to {path}")
        keys["identity_files"] = [path]
    elif path or mounted_key(container):
        keys["identity_files"] = [context.path(path or mounted_key(container))]
    elif password := next((name for name in ("SSH_PASSWORD", "SSH_PASS") if variable(name)), ""):
        keys["password_file"] = f"/run/secrets/{container.name or 'ssh'}_ssh_password"
        result.add_note(f"{container.where}: write the value of {password} to {keys['password_file']}")
    else:
        keys["agent"] = "${SSH_AUTH_SOCK}"
        result.add_note(
            f"{container.where}: no key is set, so the configuration uses the SSH agent; if there is no agent, mount"
            " a key, set SSH_KEY_PATH to its path in the container, and import again"
        )
    passphrase = next((name for name in ("SSH_PASSPHRASE", "SSH_KEY_PASSPHRASE") if variable(name)), "")
    if passphrase:
        keys["passphrase_file"] = f"/run/secrets/{container.name or 'ssh'}_passphrase"
        result.add_note(f"{container.where}: write the value of {passphrase} to {keys['passphrase_file']}")
    return keys
