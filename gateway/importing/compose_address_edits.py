"""Edits the environment variables of Compose services, so that the services connect to backends."""

import re
from typing import Any

from gateway.importing.compose_interpolation import replaced
from gateway.importing.compose_value_parsers import list_of, string_of, strings_of
from gateway.importing.gateway_compose_service import GatewayComposeServiceConfig
from gateway.importing.import_result import ImportResult, split_target
from gateway.importing.imported_setup import ImportedClient, ImportedContainer
from gateway.importing.yaml_edit import YamlEdit
from gateway.secret_redaction import hide_secrets


def change_address(
    edit: YamlEdit, client: ImportedClient, found: GatewayComposeServiceConfig, result: ImportResult
) -> None:
    """Replace the address in the client's environment variables, so that the client connects to its backend.

    Args:
        edit: Collects the changes to the Compose file.
        client: A client that is a service in the file.
        found: The configuration of the gateway's service.
        result: The imported configuration, to which the function adds notes.

    Raises:
        UsageError: The file cannot be edited in place.
    """
    container = client.container
    assert container is not None  # noqa: S101 - for the type checker
    listen = result.backends[client.backend]["listen"]
    if listen.startswith("/"):
        result.add_note(
            f"{client.where}: the diff does not change the address, because the backend listens on the unix socket"
            f" {listen}; mount the directory of the socket, and connect to the socket"
        )
        return
    port = split_target(listen)[1]
    on_host = container.network == "host"
    host = "127.0.0.1" if on_host else client.backend
    if client.host in result.replaced_names() and not on_host:
        host = client.host  # keep the name of the replaced container: the gateway's service has this name as an alias
    variable, *rest = client.variables
    if base := _base(edit, container.name, variable):
        others = [each for each in result.clients if each.container is not None and each.container.name == base]
        if not any(each.backend == client.backend and each.variables == client.variables for each in others):
            result.add_note(
                f"{client.where}: the diff does not change the value, because services.{base} sets it; set it to"
                f" {host}:{port} in {container.where}"
            )
        return
    old = container.environment[variable]
    if "://" in old:
        _change_url(edit, client, container, f"{host}:{port}", result)
    else:
        with_port = old.endswith(f":{client.port}") or (not rest and client.port != port)
        new = f"{host}:{port}" if with_port else host
        if new != old:
            _set_variable(edit, container.name, variable, new)
    if rest and container.environment[rest[0]] != str(port):
        _set_variable(edit, container.name, rest[0], str(port))
    if found.on_host and not on_host:
        path = ("services", container.name, "extra_hosts")
        hosts = _extra_hosts(edit.get(*path), f"{container.where}.extra_hosts")
        edit.put(path, list(dict.fromkeys([*hosts, f"{host}:host-gateway"])))


def _extra_hosts(value: Any, where: str) -> list[str]:
    """Return the value of `extra_hosts` as a list of `HOST:ADDRESS`."""
    if not isinstance(value, dict):
        return strings_of(value, where)
    pairs = ((name, each) for name, addresses in value.items() for each in list_of(addresses, f"{where}.{name}"))
    return [f"{name}:{string_of(each, f'{where}.{name}')}" for name, each in pairs]


def _change_url(
    edit: YamlEdit, client: ImportedClient, container: ImportedContainer, address: str, result: ImportResult
) -> None:
    """Change host and port in a variable that contains a URL. Keep the other parts of the URL, such as `${PASSWORD}`.

    Args:
        edit: Collects the changes to the Compose file.
        client: The client.
        container: The client's container.
        address: The new host and port.
        result: The imported configuration. The function adds a note if it cannot change the URL.
    """
    name = client.variables[0]
    old = container.environment[name]
    server = re.search(rf"(?<=[/@])\[?{re.escape(client.host)}\]?(?=[:,/?;]|$)[^/?;@]*(?=[/?;]|$)", old)
    written = _written(edit, container.name, name)
    new = None
    if server is not None and written is not None:
        new = replaced(written, *server.span(), address, lambda each: container.references.get(each, ""))
    elif server is not None and hide_secrets(old) == old:
        # The URL is in an env file, and contains no secret, so the Compose file may contain it. Set the variable in
        # `environment`, which takes precedence.
        new = (old[: server.start()] + address + old[server.end() :]).replace("$", "$$")
    if new is None:
        shown = server[0] if server is not None else "host and port"
        result.add_note(
            f"{client.where}: the diff does not change the URL, because the Compose file does not contain its host;"
            f" replace {shown} with {address} where the value is set"
        )
    elif new != written:
        _set_variable(edit, container.name, name, new)


def _base(edit: YamlEdit, service: str, variable: str) -> str:
    """Return the service from which `service` inherits a variable through `extends`; empty if there is none."""
    seen = {service}
    while _written(edit, service, variable) is None:
        extends = edit.get("services", service, "extends")
        service = str(extends.get("service")) if isinstance(extends, dict) else str(extends)
        if service in seen or edit.get("services", service) is None:
            return ""
        seen.add(service)
    return service if len(seen) > 1 else ""


def _written(edit: YamlEdit, service: str, variable: str) -> str | None:
    """Return a variable's value in the Compose file, before interpolation; None if the file does not set it."""
    existing = edit.get("services", service, "environment")
    if isinstance(existing, list):
        pairs = [str(each).partition("=") for each in existing]
        existing = {name: value if equals else None for name, equals, value in pairs}
    if not isinstance(existing, dict) or variable not in existing:
        return None
    return f"${{{variable}}}" if existing[variable] is None else str(existing[variable])


def _set_variable(edit: YamlEdit, name: str, variable: str, value: str) -> None:
    path = ("services", name, "environment")
    existing = edit.get(*path)
    if not isinstance(existing, list):
        edit.put((*path, variable), value)
    elif any(str(each).partition("=")[0] == variable for each in existing):
        edit.change_items(
            path, lambda each: f"{variable}={value}" if str(each).partition("=")[0] == variable else each
        )
    else:
        edit.put(path, [*existing, f"{variable}={value}"])
