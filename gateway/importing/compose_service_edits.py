"""Edits the services and volumes in a Compose file so that they use the gateway."""

from typing import Any

from gateway.backends import KINDS
from gateway.importing.compose_value_parsers import environment, mapping, string_of, strings_of
from gateway.importing.docker_run_options import read_bind
from gateway.importing.gateway_compose_service import GatewayComposeServiceConfig, volume_of
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedClient, ImportedContainer
from gateway.importing.yaml_edit import YamlEdit


def change_volume(
    edit: YamlEdit, client: ImportedClient, found: GatewayComposeServiceConfig, result: ImportResult
) -> None:
    """Change the driver options of a volume so that Docker mounts the volume through the gateway.

    Args:
        edit: Collects the changes to the Compose file.
        client: The volume, which is a client of a file server.
        found: The configuration of the gateway's service.
        result: The imported configuration, to which the function adds a note.

    Raises:
        UsageError: The file cannot be edited in place.
    """
    backend = found.backends[client.backend]
    volume = {"name": client.volume, **client.keys.get("volume", {})}
    path = KINDS[client.kind].path_key
    spec = volume_of(backend, volume=volume, **({path: client.keys[path]} if path in client.keys else {}))
    volumes = mapping(edit.get("volumes"), "volumes")
    key = client.volume_key
    if spec is None or key not in volumes or "volume" not in client.keys:
        return
    options = {option: value.replace("$", "$$") for option, value in spec.driver_options.items()}
    for option, value in options.items():
        if edit.get("volumes", key, "driver_opts", option) != value:
            edit.put(("volumes", key, "driver_opts", option), value)
    project = string_of(edit.get("name"), "name") or "PROJECT"
    name = string_of(edit.get("volumes", key, "name"), f"volumes.{key}.name") or f"{project}_{key}"
    result.add_note(
        f"{client.where}: an existing volume keeps its old options; before you run `docker compose up` with the"
        f" new Compose file, run `docker compose down` and `docker volume rm {name}`"
    )


def change_service(edit: YamlEdit, container: ImportedContainer, replaced: set[str], result: ImportResult) -> None:
    """Remove the settings of a service that are unnecessary with the gateway, and update its dependencies.

    Args:
        edit: Collects the changes to the Compose file.
        container: The service.
        replaced: The names of the services that the gateway replaces.
        result: The imported configuration, to which the function adds notes.

    Raises:
        UsageError: The file cannot be edited in place.
    """
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
    _remove_links(edit, container, replaced)
    _change_dependencies(edit, container, replaced, needs_gateway=bool(clients) or _mounts(container, result))


def _remove_links(edit: YamlEdit, container: ImportedContainer, replaced: set[str]) -> None:
    aliases = [alias for alias, name in container.links.items() if name in replaced]
    links = edit.get("services", container.name, "links")
    if aliases and isinstance(links, list):
        edit.change_items(
            ("services", container.name, "links"),
            lambda each: None if str(each).partition(":")[0] in replaced else each,
        )
        container.use(*[f"link.{each}" for each in aliases])


def _change_dependencies(
    edit: YamlEdit, container: ImportedContainer, replaced: set[str], *, needs_gateway: bool
) -> None:
    """Make a service depend on the gateway instead of on the services that the gateway replaces.

    If the service depends on none of the replaced services, add the new dependency only if `needs_gateway` is set.
    The new `depends_on` is a mapping, because only a mapping can make Compose wait until the gateway is healthy.
    """
    path = ("services", container.name, "depends_on")
    needs = edit.get(*path)
    names = list(needs) if isinstance(needs, dict) else strings_of(needs, f"{container.where}.depends_on")
    old = [each for each in names if str(each) in replaced]
    if not old and not needs_gateway:
        return
    container.use("depends_on")
    conditions = needs if isinstance(needs, dict) else {each: {"condition": "service_started"} for each in names}
    rest = {each: keys for each, keys in conditions.items() if each not in old}
    edit.put(path, {"gateway": {"condition": "service_healthy"}, **rest})


def _mounts(container: ImportedContainer, result: ImportResult) -> bool:
    volumes = {client.volume_key or client.volume for client in result.clients if client.volume and client.backend}
    return any(mount.source in volumes for mount in container.mounts)


def _remove_variables(edit: YamlEdit, container: ImportedContainer, gone: list[str], result: ImportResult) -> None:
    path = ("services", container.name, "environment")
    existing = edit.get(*path)
    present = environment(existing, container.where)
    for variable in gone:
        if variable not in present:
            result.add_note(
                f"{container.where}: {variable} is no longer needed; remove it where it is set, for example in an"
                " env_file"
            )
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
