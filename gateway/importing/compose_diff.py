"""Creates a diff that adds the gateway to a Compose file, and makes the other services use it."""

import difflib
import posixpath
import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from gateway.backends import KINDS
from gateway.errors import UsageError
from gateway.importing.compose_address_edits import change_address
from gateway.importing.compose_service_edits import change_service, change_volume
from gateway.importing.compose_value_parsers import strings_of
from gateway.importing.gateway_compose_service import BRIDGE, GatewayComposeServiceConfig, adapt_to_compose, service
from gateway.importing.import_result import ImportResult, split_target
from gateway.importing.imported_setup import HERE, ImportedContainer
from gateway.importing.tunnels_of_imported_clients import published_ports
from gateway.importing.yaml_edit import YamlEdit


def compose_diff(text: str, name: str, result: ImportResult) -> str:
    """Return a unified diff that changes a Compose file, and creates the gateway's configuration file next to it.

    Args:
        text: The content of the Compose file.
        name: The name of the Compose file.
        result: The imported configuration. The function adds notes about the diff.

    Raises:
        UsageError: The file cannot be edited in place.
    """
    found = adapt_to_compose(result, posixpath.dirname(name))
    containers = {each.name: each for each in result.containers if each.is_service}
    edit = _edit(text, name, has_services=bool(containers))
    replaced = {each.name for each in containers.values() if each.replaced}
    networks = _networks(edit, result, found)
    ports = list(_ports(result))
    for client in result.clients:
        if client.container is not None and client.container.is_service and client.backend:
            change_address(edit, client, found, result)
        elif client.volume and client.backend:
            change_volume(edit, client, found, result)
    for container in containers.values():
        if not container.replaced:
            change_service(edit, container, replaced, result)
            _note_internal_networks(edit, container, found, result)
    for each in replaced:
        edit.remove(("services", each))
    _note_ports(found, ports, result)
    _note_requirements(found, result)
    configuration = _configuration(found, result)
    variables = sorted(set(re.findall(r"\$\{(\w+)\}", configuration)))
    if edit.get("services") is None:
        edit.put(("services",), {"gateway": service(found, networks, ports, variables)})
    else:
        edit.put(("services", "gateway"), service(found, networks, ports, variables))
    _put(edit, "configs", {"gateway": {"file": "gateway.yaml"}})
    _put(edit, "secrets", {each: {"file": path} for each, path in found.secrets.items()})
    folder = found.folder
    result.notes = [
        re.sub(r"( to )/run/secrets/", rf"\1{posixpath.join(folder, 'secrets')}/", note)
        for note in result.notes
        if "needs CAP_NET_ADMIN" not in note
    ]
    changes = [(posixpath.join(folder, "gateway.yaml"), "", configuration), (name, text, edit.text())]
    for path, content in result.files.items():
        changes.append((posixpath.join(folder, path.rpartition("/")[2]), "", content))
    return "".join(_diff(*change) for change in _relative(changes, folder, result))


def _edit(text: str, name: str, *, has_services: bool) -> YamlEdit:
    """Create the `YamlEdit` that collects the changes to a Compose file.

    Args:
        text: The content of the file.
        name: The name of the file.
        has_services: Whether the import has found services in the file.

    Raises:
        UsageError: The file has a service `gateway`, or cannot be edited in place.
    """
    edit = YamlEdit(text)
    if edit.get("services", "gateway") is not None:
        raise UsageError(
            f"{name}: the file already has a service named gateway: undo the earlier diff, or rename the service"
        )
    if has_services and edit.get("services") is None:
        raise UsageError(f"{name}: the file has Compose file format 1: put the services below `services:`")
    return edit


def _relative(changes: list[tuple[str, str, str]], folder: str, result: ImportResult) -> list[tuple[str, str, str]]:
    """Return the changes, with paths relative to `folder` if patch(1) refuses the original paths.

    patch(1) refuses absolute paths, and paths with `..`.

    Args:
        changes: The path, the old content and the new content of each file in `folder`.
        folder: The directory of the Compose file.
        result: The imported configuration. If the paths change, the function adds a note on how to apply the diff.
    """
    if not folder.startswith("/") and ".." not in folder.split("/"):
        return changes
    result.add_note(
        f"apply the diff with `patch -d {shlex.quote(folder)} -p0`, because its paths are relative to {folder}"
    )
    return [(posixpath.basename(path), old, new) for path, old, new in changes]


def _note_ports(found: GatewayComposeServiceConfig, ports: list[str], result: ImportResult) -> None:
    mounted = {name for name, keys in found.backends.items() if KINDS[keys["kind"]].kernel_mounts}
    on_loopback: list[str] = []
    for forward in result.forwards:
        published = published_ports(forward, result)
        if not published or forward.backend in mounted:
            continue
        on_loopback += [f"127.0.0.1:{port}" for port in published]
        for container in result.containers:
            if container.where == forward.where:
                container.use(*container.port_parts)
    if shown := on_loopback if found.on_host else ports:
        result.add_note(f"services.gateway: publishes ports only on this host's loopback: {', '.join(shown)}")


def _note_requirements(found: GatewayComposeServiceConfig, result: ImportResult) -> None:
    if found.needs_capabilities:
        result.add_note("services.gateway: build the image with `docker build --target vpn -t gateway-vpn .`")
        result.add_note("services.gateway: root must own the secret files of this service")
    else:
        result.add_note(
            "services.gateway: the service's user must own the secret files, so start the service as your user:"
            " `GATEWAY_USER=$(id -u) docker compose up --wait`"
        )
    if found.on_host:
        listeners = [name for name, keys in found.backends.items() if BRIDGE in str(keys.get("listen"))]
        text = "services.gateway: the host's kernel mounts a volume, so the gateway uses the host's network"
        if listeners:
            text += (
                f"; containers reach {', '.join(listeners)} at {BRIDGE}, which is usually the address of"
                " `host-gateway`; verify this with `docker network inspect bridge`"
            )
        result.add_note(text)


def _note_internal_networks(
    edit: YamlEdit, container: ImportedContainer, found: GatewayComposeServiceConfig, result: ImportResult
) -> None:
    """Add a note if the gateway listens on the host, but a client's container has only internal networks.

    Internal networks have no route to the host.
    """
    if not found.on_host or container.network:
        return
    names = _network_names(edit, container)
    internal = all(edit.get("networks", name, "internal") for name in names)
    if internal and any(each.container is container and each.backend for each in result.clients):
        result.add_note(
            f"{container.where}: internal networks ({', '.join(names)}) have no route to the host, where the gateway"
            " listens; add a network without `internal`"
        )


def _network_names(edit: YamlEdit, container: ImportedContainer) -> list[str]:
    keys = edit.get("services", container.name, "networks")
    if isinstance(keys, dict):
        return [str(each) for each in keys] or ["default"]
    return strings_of(keys, f"{container.where}.networks") or ["default"]


def _diff(name: str, old: str, new: str) -> str:
    name += "\t" if " " in name else ""  # patch(1) requires a tab after a name with spaces
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), name if old else "/dev/null", name
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _configuration(found: GatewayComposeServiceConfig, result: ImportResult) -> str:
    sections = {**result.sections, "tunnels": found.tunnels, "backends": found.backends}
    return yaml.safe_dump({key: each for key, each in sections.items() if each}, sort_keys=False, width=100)


def _put(edit: YamlEdit, section: str, entries: dict[str, Any]) -> None:
    """Add entries to a top-level section of the Compose file. Do not change existing entries with the same names."""
    if not isinstance(edit.get(section), dict):
        if entries:
            edit.put((section,), entries)
        return
    for name, entry in entries.items():
        if edit.get(section, name) is None:
            edit.put((section, name), entry)


def _networks(edit: YamlEdit, result: ImportResult, found: GatewayComposeServiceConfig) -> dict[str, Any]:
    """Return the value of `networks` for the gateway's service, with the gateway's aliases on each network.

    The gateway joins the networks of its clients and of the services that it replaces.
    """
    used: dict[str, None] = {}
    for container in result.containers:
        if container.is_service and (container.replaced or any(c.container is container for c in result.clients)):
            used |= dict.fromkeys(_network_names(edit, container))
    aliases = [*found.backends, *result.replaced_names()]
    found_: dict[str, Any] = {name: {"aliases": list(dict.fromkeys(aliases))} for name in used or ["default"]}
    if "default" not in found_ and all(edit.get("networks", name, "internal") for name in found_):
        found_["default"] = {}  # unlike internal networks, the default network has a route to the tunnels' servers
    return found_


def _ports(result: ImportResult) -> Iterator[str]:
    """Yield the `ports` of the gateway's service, which publish the imported forwards on 127.0.0.1."""
    for forward in result.forwards:
        if not forward.backend or forward.listen.startswith("/"):
            continue
        port = split_target(result.backends[forward.backend]["listen"])[1]
        yield from (f"127.0.0.1:{outer}:{port}" for host, outer in sorted(forward.names) if host == HERE)
