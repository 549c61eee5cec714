"""Imports the services and volumes in Compose files."""

import posixpath
import re
from dataclasses import replace
from typing import Any

from gateway.errors import UsageError
from gateway.importing.compose_file import read_compose
from gateway.importing.compose_value_parsers import environment, list_of, mapping, string_of, strings_of, words_of
from gateway.importing.docker_command_parser import published
from gateway.importing.docker_run_options import read_bind
from gateway.importing.env_file import EnvFiles
from gateway.importing.import_result import ImportResult
from gateway.importing.imported_setup import ImportedContainer, ImportedMount
from gateway.importing.network_mounts import import_volume


def import_compose(
    text: str,
    source: str,
    files: EnvFiles,
    result: ImportResult,
    folder: str = "",
    override: tuple[str, str] = ("", ""),
) -> None:
    """Import the services and volumes in a Compose file.

    Args:
        text: The content of the file.
        source: The prefix of notes about the file, such as `compose.yaml: `; can be empty.
        files: The env files that were passed as sources.
        result: The imported configuration, to which the function adds the containers, volumes and notes.
        folder: The directory of the file. Relative paths in the file are relative to this directory.
        override: The name and the content of the override file; empty if there is none.

    Raises:
        UsageError: The file or the override file is not a valid Compose file.
    """
    document = read_compose(text, source, files, result, folder, override)
    secret_files = {}
    for name, value in mapping(document.get("secrets"), f"{source}secrets").items():
        where = f"{source}secrets.{name}"
        secret_files[name] = _resolved(string_of(mapping(value, where).get("file"), f"{where}.file"), folder)
    for name, value in mapping(document.get("services"), f"{source}services").items():
        service = mapping(value, f"{source}services.{name}")
        container = _service(name, service, source, files, folder)
        container.mounts = [replace(each, source=_resolved(each.source, folder)) for each in container.mounts]
        for index, each in enumerate(list_of(service.get("secrets"), f"{container.where}.secrets")):
            where = f"{container.where}.secrets.{index}"
            if isinstance(each, dict):
                secret, target = (string_of(each.get(key), f"{where}.{key}") for key in ("source", "target"))
            else:
                secret, target = string_of(each, where), ""
            if path := secret_files.get(secret):
                target = posixpath.join("/run/secrets", target or secret)
                container.mounts.append(ImportedMount(path, target, read_only=True))
        container.parts |= {
            f"mount.{each.target}": f"volume {each.source}:{each.target}".replace(" :", " ")
            for each in container.mounts
        }
        result.containers.append(container)
    for name, value in mapping(document.get("volumes"), f"{source}volumes").items():
        volume = mapping(value, f"{source}volumes.{name}")
        options = mapping(volume.get("driver_opts"), f"{source}volumes.{name}.driver_opts")
        import_volume(
            string_of(volume.get("name"), f"{source}volumes.{name}.name") or name,
            {key: string_of(each, f"{source}volumes.{name}.driver_opts.{key}") for key, each in options.items()},
            f"{source}volumes.{name}",
            result,
            key=name,
        )
        rest = [key for key in volume if key not in ("driver", "driver_opts", "name")]
        if options and rest:
            result.add_note(f"{source}volumes.{name}: unchanged: {', '.join(rest)}")
    rest = [
        key for key in document if key not in ("services", "volumes", "version", "name", "include") and document[key]
    ]
    if rest:
        result.add_note(f"{source.removesuffix(': ') or 'the file'}: unchanged: {', '.join(rest)}")


def _resolved(path: str, folder: str) -> str:
    """Return the source of a mount. Prefix a relative path, such as `./data`, with `folder`.

    Args:
        path: The source: a path, or the name of a volume.
        folder: The directory of the Compose file.
    """
    return posixpath.normpath(posixpath.join(folder, path)) if re.match(r"\.\.?(/|$)", path) else path


def _service(name: str, service: dict[str, Any], source: str, files: EnvFiles, folder: str) -> ImportedContainer:
    where = f"{source}services.{name}"
    container = ImportedContainer(where, name, image=string_of(service.get("image"), f"{where}.image"))
    container.references = files.values(folder)
    for key, value in service.items():
        container.parts[key] = key
        match key:
            case "entrypoint" | "command":
                words = words_of(value, f"{where}.{key}")
                container.command = words + container.command if key == "entrypoint" else container.command + words
            case "environment":
                container.environment |= {
                    variable: files.value(variable, folder) or text if text == f"${{{variable}}}" else text
                    for variable, text in environment(value, where).items()
                }
            case "volumes":
                container.mounts += [
                    _mount(each, f"{where}.volumes.{index}")
                    for index, each in enumerate(list_of(value, f"{where}.volumes"))
                ]
    _read_networks(container, service)
    _read_env_files(container, list_of(service.get("env_file"), f"{where}.env_file"), files, folder)
    container.use("environment", "volumes", "image")
    if container.image:
        container.parts["image"] = "image"
    container.parts |= {f"environment.{each}": f"environment.{each}" for each in container.environment}
    return container


def _read_env_files(container: ImportedContainer, paths: list[Any], files: EnvFiles, folder: str) -> None:
    """Read the env files of a service. A later file overrides earlier ones, and `environment` overrides all files."""
    variables: dict[str, str] = {}
    container.use("env_file")
    for index, path in enumerate(paths):
        where = f"{container.where}.env_file.{index}"
        name = string_of(path.get("path"), f"{where}.path") if isinstance(path, dict) else string_of(path, where)
        if not name:
            raise UsageError(f"{where} must have a path")
        found = files.read(name, [folder], lambda each: files.value(each, folder))
        if found is None:
            container.parts[f"env_file.{name}"] = f"env_file {name} (not read: pass it as another source)"
        else:
            variables |= found
    container.environment = variables | container.environment


def _read_networks(container: ImportedContainer, service: dict[str, Any]) -> None:
    """Read how clients reach a service: its network mode, links, names and published ports."""
    network, net, *names = (
        string_of(service.get(key), f"{container.where}.{key}")
        for key in ("network_mode", "net", "container_name", "hostname")
    )
    container.network = network or net
    container.aliases += filter(None, names)
    for key in ("links", "external_links"):
        container.use(key)
        for link in strings_of(service.get(key), f"{container.where}.{key}"):
            container.add_link(link)
    networks = service.get("networks")
    for name, value in networks.items() if isinstance(networks, dict) else ():
        where = f"{container.where}.networks.{name}"
        aliases = mapping(value, where).get("aliases")
        container.aliases += strings_of(aliases, f"{where}.aliases")
    for port in list_of(service.get("ports"), f"{container.where}.ports"):
        text = f"{port.get('published')}:{port.get('target')}" if isinstance(port, dict) else str(port)
        container.published += list(published(text))


def _mount(value: Any, where: str) -> ImportedMount:
    if isinstance(value, dict):
        source, target = (string_of(value.get(key), f"{where}.{key}") for key in ("source", "target"))
        mount = ImportedMount(source, target, bool(value.get("read_only")))
    else:
        mount = read_bind(string_of(value, where))
    if not mount.target:
        raise UsageError(f"{where} must have a target, which is a path in the container")
    return mount
