"""Creates instructions for the user: how to connect each client to its new backend."""

import re
from typing import Any

from gateway.importing.import_result import ImportResult, split_target
from gateway.importing.imported_setup import ANY_ADDRESS, LOOPBACK, ImportedClient, ImportedContainer
from gateway.importing.network_mounts import note_fstab_line


def _address(
    client: ImportedClient, container: ImportedContainer, backend: dict[str, Any], result: ImportResult
) -> str:
    """Return an instruction that contains the address to which the container must connect.

    The gateway replaces some containers. If the container refers to one of them in a link or in its network mode,
    the instruction says to remove this setting.
    """
    listen, variables = backend["listen"], ", ".join(client.variables)
    if listen.startswith("/"):
        return f"mount the directory of the unix socket {listen}, and connect to the socket ({variables})"
    host, port = split_target(listen)
    if container.network == "host":
        return f"connect to 127.0.0.1:{port} ({variables})"
    text = f"connect to {client.backend}:{port} on a network of the gateway ({variables})"
    if not container.is_service and host not in LOOPBACK:
        text += (
            f", or start the container with --add-host {client.backend}:host-gateway if the gateway runs on this host"
        )
    if host in LOOPBACK:
        text += f"; to make this possible, run the gateway in a container and listen on {ANY_ADDRESS}:{port}"
    linked = container.links.get(client.host, "")
    if any(linked in each.names and each.replaced for each in result.containers):
        text += f"; remove the link to {linked}"
        container.use(f"link.{client.host}")
    owner = container.network.partition(":")[2]
    if any(owner in each.names and each.replaced for each in result.containers):
        text += f"; remove the network mode {container.network}"
    return text


def _missing_file(client: ImportedClient, container: ImportedContainer) -> str:
    """Return an instruction to create the password file of the health check.

    Return an empty string if this is not necessary, for example because the container mounts the file from the host.
    """
    path = client.keys.get("check", {}).get("password_file", "")
    variable = next((each for each in client.login if container.environment[each] == path), "")
    in_container = bool(container.name or container.image)
    if not variable or not in_container or container.host_path(path) is not None:
        return ""
    return f"; create the file {path} with the password; {variable} refers to this file, but no source contains it"


def note_client(client: ImportedClient, result: ImportResult) -> None:
    """Add the instruction for a client to `result.changes`, and the client's notes to `result.notes`."""
    backend = result.backends[client.backend]
    for note in client.notes:
        text = re.sub(r"\bPASSWORD_FILE\b", f"/run/secrets/{client.backend}_password", note)
        result.add_note(f"{client.where}: {text}")
    if client.container is not None:
        used = client.login if client.keys.get("check") else client.variables
        client.container.use(*[f"environment.{name}" for name in used])
        text = _address(client, client.container, backend, result) + _missing_file(client, client.container)
        result.changes.append((client, text))
        return
    if client.folder:
        note_fstab_line(client, backend["listen"], result)
    elif client.volume and backend.get("volume", {}).get("name") == client.volume:
        result.changes.append((client, "replace it with the output of `gateway render compose` or `docker-run`"))
    elif not client.volume:
        result.changes.append((client, f"connect to {backend['listen']}"))
