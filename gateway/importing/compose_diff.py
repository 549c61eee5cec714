"""Changes a Compose file so that it uses the gateway, and shows the change as a diff."""

import difflib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import yaml

from gateway.errors import UsageError
from gateway.importing.compose import environment, mapping
from gateway.importing.deployment import BRIDGE, Deployment, deploy, service, volume_of
from gateway.importing.docker_options import read_bind
from gateway.importing.model import HERE, Client, Container
from gateway.importing.result import ImportResult, split_target
from gateway.importing.yaml_edit import YamlEdit


def compose_diff(text: str, name: str, result: ImportResult) -> str:
    """Return a unified diff that changes a Compose file, and creates the gateway's configuration beside it.

    Args:
        text: The content of the Compose file.
        name: The name of the Compose file.
        result: The imported configuration. Gets notes on what the diff cannot change.

    Raises:
        UsageError: The file cannot be edited in place.
    """
    found = deploy(result, posixpath.dirname(name))
    edit = YamlEdit(text)
    if edit.get("services", "gateway") is not None:
        raise UsageError(f"{name}: there is already a service gateway")
    containers = {each.name: each for each in result.containers if each.is_service}
    replaced = {each.name for each in containers.values() if each.replaced}
    networks = _networks(edit, result, found)
    ports = list(_ports(result))
    for client in result.clients:
        if client.container is not None and client.container.is_service and client.backend:
            _change_address(edit, client, found, result)
        elif client.volume and client.backend:
            _change_volume(edit, client, found)
    for container in containers.values():
        if not container.replaced:
            _change_service(edit, container, replaced, result)
    for each in replaced:
        edit.remove(("services", each))
    _note_requirements(found, ports, result)
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
    return "".join(_diff(*change) for change in changes)


def _note_requirements(found: Deployment, ports: list[str], result: ImportResult) -> None:
    if ports and not found.on_host:
        result.add_note(f"services.gateway: publishes ports only on this host's loopback: {', '.join(ports)}")
    if found.has_vpn:
        result.add_note("services.gateway: build the image with `docker build --target vpn -t gateway-vpn .`")
        result.add_note("services.gateway: the files of its secrets must belong to root")
    else:
        result.add_note(
            "services.gateway: the files of its secrets must belong to its user: start it with"
            " `GATEWAY_USER=$(id -u) docker compose up --wait`"
        )
    if found.on_host:
        listeners = [name for name, keys in found.backends.items() if BRIDGE in str(keys.get("listen"))]
        text = "services.gateway: the host's kernel mounts a volume, so the gateway uses the host's network"
        if listeners:
            text += (
                f"; containers reach {', '.join(listeners)} at {BRIDGE}, Docker's default address of `host-gateway`:"
                " check it with `docker network inspect bridge`"
            )
        result.add_note(text)


def _diff(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), name if old else "/dev/null", name
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _configuration(found: Deployment, result: ImportResult) -> str:
    sections = {**result.sections, "tunnels": found.tunnels, "backends": found.backends}
    return yaml.safe_dump({key: each for key, each in sections.items() if each}, sort_keys=False, width=100)


def _put(edit: YamlEdit, section: str, entries: dict[str, Any]) -> None:
    """Add entries to a section of the file."""
    if not isinstance(edit.get(section), dict):
        if entries:
            edit.put((section,), entries)
        return
    for name, entry in entries.items():
        if edit.get(section, name) is None:
            edit.put((section, name), entry)


def _networks(edit: YamlEdit, result: ImportResult, found: Deployment) -> dict[str, Any]:
    """Return the networks of the gateway: those of its clients and of the services that it replaces."""
    used: dict[str, None] = {}
    for container in result.containers:
        if container.is_service and (container.replaced or any(c.container is container for c in result.clients)):
            keys = edit.get("services", container.name, "networks")
            used |= dict.fromkeys(keys if isinstance(keys, dict | list) else ["default"])
    aliases = [*found.backends, *(n for each in result.containers if each.replaced for n in sorted(each.names))]
    found_: dict[str, Any] = {name: {"aliases": list(dict.fromkeys(aliases))} for name in used or ["default"]}
    if "default" not in found_ and all((edit.get("networks", name) or {}).get("internal") for name in found_):
        found_["default"] = {}  # a route to the tunnels' servers
    return found_


def _ports(result: ImportResult) -> Iterator[str]:
    """Yield the ports to publish: those of the services that the gateway replaces, and of forwards on this host."""
    for forward in result.forwards:
        if not forward.backend or forward.listen.startswith("/"):
            continue
        port = split_target(result.backends[forward.backend]["listen"])[1]
        yield from (f"127.0.0.1:{outer}:{port}" for host, outer in sorted(forward.names) if host == HERE)


def _change_address(edit: YamlEdit, client: Client, found: Deployment, result: ImportResult) -> None:
    """Let a client connect to its backend."""
    container = client.container
    assert container is not None  # noqa: S101 - for the type checker
    listen = result.backends[client.backend]["listen"]
    if listen.startswith("/"):
        result.add_note(f"{client.where}: the diff does not change the address: mount the directory of {listen}")
        return
    port = split_target(listen)[1]
    on_host = container.network == "host"
    host = "127.0.0.1" if on_host else client.backend
    if any(each.replaced and client.host in each.names for each in result.containers) and not on_host:
        host = client.host  # which is an alias of the gateway
    for variable, value in _new_values(client, container, host, port):
        _set_variable(edit, container.name, variable, value)
    if found.on_host and not on_host:
        path = ("services", container.name, "extra_hosts")
        existing = edit.get(*path) or []
        hosts = [f"{key}:{each}" for key, each in existing.items()] if isinstance(existing, dict) else list(existing)
        edit.put(path, list(dict.fromkeys([*hosts, f"{host}:host-gateway"])))


def _new_values(client: Client, container: Container, host: str, port: int) -> Iterator[tuple[str, str]]:
    first, *rest = client.variables
    old = container.environment[first]
    if "://" in old:
        new = re.sub(
            rf"(?<=[/@]){re.escape(client.host)}(:{client.port})?(?=[/?,]|$)", f"{host}:{port}", old, count=1
        )
    elif old.endswith(f":{client.port}") or (not rest and client.port != port):
        new = f"{host}:{port}"
    else:
        new = host
    if new != old:
        yield first, new
    if rest and container.environment[rest[0]] != str(port):
        yield rest[0], str(port)


def _set_variable(edit: YamlEdit, name: str, variable: str, value: str) -> None:
    path = ("services", name, "environment")
    existing = edit.get(*path)
    value = value.replace("$", "$$") if "${" not in value else value
    if not isinstance(existing, list):
        edit.put((*path, variable), value)
    elif any(str(each).partition("=")[0] == variable for each in existing):
        edit.change_items(
            path, lambda each: f"{variable}={value}" if str(each).partition("=")[0] == variable else each
        )
    else:
        edit.put(path, [*existing, f"{variable}={value}"])


def _change_volume(edit: YamlEdit, client: Client, found: Deployment) -> None:
    """Let a volume mount its backend."""
    backend = found.backends[client.backend]
    volume = {"name": client.volume, **client.keys.get("volume", {})}
    spec = volume_of(
        backend, volume=volume, **{key: client.keys[key] for key in ("export", "share") if key in client.keys}
    )
    volumes = mapping(edit.get("volumes"), "volumes")
    key = next((each for each, keys in volumes.items() if (keys or {}).get("name", each) == client.volume), None)
    if spec is None or key is None or "volume" not in client.keys:
        return
    options = {option: value.replace("$", "$$") for option, value in spec.driver_options.items()}
    for option, value in options.items():
        if edit.get("volumes", key, "driver_opts", option) != value:
            edit.put(("volumes", key, "driver_opts", option), value)


def _change_service(edit: YamlEdit, container: Container, replaced: set[str], result: ImportResult) -> None:
    """Remove what a service does not need any more, and let it depend on the gateway."""
    name = container.name
    clients = [each for each in result.clients if each.container is container and each.backend]
    kept = {variable for each in clients for variable in (*each.login, *each.variables)}
    gone = [key.partition(".")[2] for key in container.used if key.startswith("environment.")]
    _remove_variables(edit, container, [each for each in gone if each not in kept], result)
    paths = [key.partition(".")[2] for key in container.used if key.startswith("mount.")]
    _remove_mounts(edit, name, paths)
    if container.network.partition(":")[2] in replaced:
        edit.remove(("services", name, "network_mode"))
        container.use("network_mode")
    needs = edit.get("services", name, "depends_on")
    old = set(needs or ()) & replaced
    container.use(*["depends_on"] if old else [])
    if old and isinstance(needs, dict):
        rest = {each: keys for each, keys in needs.items() if each not in old}
        edit.put(("services", name, "depends_on"), {"gateway": {"condition": "service_healthy"}, **rest})
    elif old:
        first = next(each for each in needs if each in old)
        edit.change_items(
            ("services", name, "depends_on"),
            lambda each: "gateway" if each == first else None if each in old else each,
        )
    elif (clients or _mounts(container, result)) and not needs:
        edit.put(("services", name, "depends_on"), {"gateway": {"condition": "service_healthy"}})


def _mounts(container: Container, result: ImportResult) -> bool:
    """Return whether a container mounts a volume that is imported."""
    volumes = {client.volume for client in result.clients if client.volume and client.backend}
    return any(mount.source in volumes for mount in container.mounts)


def _remove_variables(edit: YamlEdit, container: Container, gone: list[str], result: ImportResult) -> None:
    path = ("services", container.name, "environment")
    existing = edit.get(*path)
    present = environment(existing, container.where)
    for variable in gone:
        if variable not in present:
            result.add_note(f"{container.where}: {variable} is not needed any more: remove it from its env_file")
        elif isinstance(existing, dict):
            edit.remove((*path, variable))
    if isinstance(existing, list):
        edit.change_items(path, lambda each: None if str(each).partition("=")[0] in gone else each)


def _remove_mounts(edit: YamlEdit, name: str, targets: list[str]) -> None:
    path = ("services", name, "volumes")
    existing = edit.get(*path)
    if not isinstance(existing, list) or not targets:
        return

    def target(each: Any) -> Any:
        return each.get("target") if isinstance(each, dict) else read_bind(str(each)).target

    edit.change_items(path, lambda each: None if target(each) in targets else each)
