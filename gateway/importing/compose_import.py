"""Imports the services and volumes in Compose files."""

import posixpath
import re
from dataclasses import replace
from typing import Any

from gateway.importing.compose_file import read_compose
from gateway.importing.compose_value_parsers import environment, list_of, mapping, strings_of, words_of
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
    secrets = {
        name: _resolved(str(mapping(value, f"{source}secrets.{name}").get("file") or ""), folder)
        for name, value in mapping(document.get("secrets"), f"{source}secrets").items()
    }
    for name, value in mapping(document.get("services"), f"{source}services").items():
        service = mapping(value, f"{source}services.{name}")
        container = _service(name, service, source, files, folder)
        container.mounts = [replace(each, source=_resolved(each.source, folder)) for each in container.mounts]
        for each in list_of(service.get("secrets"), f"{container.where}.secrets"):
            keys = each if isinstance(each, dict) else {"source": each}
            if path := secrets.get(str(keys.get("source"))):
                target = posixpath.join("/run/secrets", str(keys.get("target") or keys["source"]))
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
            str(volume.get("name") or name),
            {key: str(each) for key, each in options.items()},
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
    container = ImportedContainer(where, name, image=str(service.get("image") or ""))
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
                container.mounts += [_mount(each) for each in list_of(value, f"{where}.volumes")]
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
    for path in paths:
        name = str(path.get("path") if isinstance(path, dict) else path)
        found = files.read(name, [folder], lambda each: files.value(each, folder))
        if found is None:
            container.parts[f"env_file.{name}"] = f"env_file {name} (not read: pass it as another source)"
        else:
            variables |= found
    container.environment = variables | container.environment


def _read_networks(container: ImportedContainer, service: dict[str, Any]) -> None:
    """Read how clients reach a service: its network mode, links, names and published ports."""
    container.network = str(service.get("network_mode") or service.get("net") or "")
    container.aliases += [str(service[key]) for key in ("container_name", "hostname") if service.get(key)]
    for key in ("links", "external_links"):
        container.use(key)
        for link in strings_of(service.get(key), f"{container.where}.{key}"):
            container.add_link(link)
    networks = service.get("networks")
    for name, value in networks.items() if isinstance(networks, dict) else ():
        where = f"{container.where}.networks.{name}"
        aliases = mapping(value, where).get("aliases")
        container.aliases += [str(each) for each in list_of(aliases, f"{where}.aliases")]
    for port in list_of(service.get("ports"), f"{container.where}.ports"):
        text = f"{port.get('published')}:{port.get('target')}" if isinstance(port, dict) else str(port)
        container.published += list(published(text))


def _mount(value: Any) -> ImportedMount:
    if isinstance(value, dict):
        return ImportedMount(
            str(value.get("source") or ""), str(value.get("target") or ""), bool(value.get("read_only"))
        )
    return read_bind(str(value))
