"""Converts all imported files and commands to one configuration."""

import posixpath
import re
from collections.abc import Sequence
from functools import partial

from gateway.backends import KINDS
from gateway.errors import UsageError
from gateway.importing.backend_creation import create_backends
from gateway.importing.compose_import import import_compose
from gateway.importing.compose_merge import is_base, is_override
from gateway.importing.database_environment_variables import find_clients
from gateway.importing.docker_command_parser import Volumes
from gateway.importing.env_file import EnvFiles, parse_env_file
from gateway.importing.import_result import ImportResult, split_target
from gateway.importing.imported_setup import ImportedContainer
from gateway.importing.network_mounts import import_fstab, import_volume
from gateway.importing.script_commands import import_script, import_unit
from gateway.importing.source_format import ImportSource, recognize
from gateway.importing.ssh_config import import_config
from gateway.importing.ssh_containers import import_tunnel
from gateway.importing.tunnels_of_imported_clients import published_ports
from gateway.importing.vpn_containers import import_vpn
from gateway.secret_redaction import hide_secrets
from gateway.tunnels import KINDS as TUNNEL_KINDS


def convert(sources: Sequence[ImportSource]) -> ImportResult:
    """Convert sources to one configuration.

    Args:
        sources: The files and commands to convert.

    Raises:
        UsageError: A source is not valid. The message contains no secret.
    """
    try:
        return _convert(sources)
    except UsageError as error:
        raise UsageError(hide_secrets(str(error))) from None
    except RecursionError:
        raise UsageError("a source has too many nested levels: simplify it") from None


def _convert(sources: Sequence[ImportSource]) -> ImportResult:
    result = ImportResult()
    for source in sources:
        if found := re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\U0010ffff]", source.text):
            raise UsageError(f"{source.name or 'the source'}: has the control character {found[0]!r}: remove it")
    forms = [source.form or recognize(source) for source in sources]
    given = list(zip(sources, forms, strict=True))
    overrides = _overrides(given)
    files = EnvFiles({source.name: source.text for source, form in given if form == "env" and source.name})
    for source, form in given:
        if source in overrides.values():
            continue
        prefix = f"{source.name}: " if source.name and len(sources) > 1 else ""
        for name, options in _read(source, form, prefix, files, result, overrides.get(source.name)).items():
            import_volume(name, options, f"{prefix}volumes.{name}", result)
    for container in result.containers:
        import_vpn(container, result)
    for container in result.containers:
        if not container.replaced and not import_tunnel(container, result):
            result.clients += find_clients(container, result)
    _import_env_files(given, files, result)
    create_backends(result)
    _keep_shared_vpn_containers(result)
    result.add_example()
    result.note_unused_tunnels()
    result.note_variables()
    return result


def _overrides(given: Sequence[tuple[ImportSource, str]]) -> dict[str, ImportSource]:
    """Map the name of each default Compose file (`is_base`) to the override file in its directory, if any."""
    files = [(*posixpath.split(source.name), source) for source, form in given if form == "compose" and source.name]
    overrides = {folder: source for folder, name, source in files if is_override(name)}
    return {source.name: overrides[folder] for folder, name, source in files if is_base(name) and folder in overrides}


def _read(
    source: ImportSource,
    form: str,
    prefix: str,
    files: EnvFiles,
    result: ImportResult,
    override: ImportSource | None = None,
) -> Volumes:
    """Import one source. Return the driver options of each volume that the source creates, by volume name."""
    folder = posixpath.dirname(source.name)
    read_env_file = partial(files.read, folders=("", folder))
    match form:
        case "compose":
            second = (override.name, override.text) if override is not None else ("", "")
            import_compose(source.text, prefix, files, result, folder, second)
        case "ssh-config":
            import_config(source.text, source.name or "ssh_config", result)
        case "fstab":
            import_fstab(source.text, prefix or f"{source.name or 'fstab'}: ", result)
        case "systemd":
            return import_unit(source.text, source.name, prefix, read_env_file, result)
        case "env":
            pass
        case "ssh":
            text = source.text if re.match(r"\s*(\S+\s+)*?\S*ssh\s", source.text) else f"ssh {source.text}"
            return import_script(text, prefix, read_env_file, result, form="ssh")
        case kind if kind in TUNNEL_KINDS:
            name = source.name.rpartition("/")[2].rpartition(".")[0]
            result.add_tunnel(
                {"kind": kind, **(TUNNEL_KINDS[kind].import_file(source.name, source.text) or {})}, name
            )
        case _:
            return import_script(source.text, prefix, read_env_file, result)
    return {}


def _import_env_files(given: Sequence[tuple[ImportSource, str]], files: EnvFiles, result: ImportResult) -> None:
    """Import the env files that no container uses, as if a process on this host used their variables.

    If a Compose file is among the sources, do not import `.env` files. Only add notes on their unused variables.
    """
    compose = any(form == "compose" for _, form in given)
    for source, form in given:
        if form != "env" or (source.name and files.is_read(source.name)):
            continue
        if compose and source.name.rpartition("/")[2] == ".env":
            if unused := files.unused(source.name):
                result.add_note(
                    f"{source.name}: variables that no Compose file in the same directory uses: {', '.join(unused)}"
                )
            continue
        variables = parse_env_file(source.text, lambda _: "")
        where = source.name or "variables"
        container = ImportedContainer(where, "", environment=variables, network="host")
        container.parts = {f"environment.{name}": name for name in variables}
        if import_tunnel(container, result):
            continue
        clients = find_clients(container, result)
        result.clients += clients
        result.containers.append(container)


def _keep_shared_vpn_containers(result: ImportResult) -> None:
    """Do not replace a VPN container if another container still needs the VPN container's network namespace.

    A container that shares this namespace still needs it, unless the container uses an imported backend, or the
    gateway replaces the container. Add a note on each container that still needs the namespace.
    """
    served = {id(client.container) for client in result.clients if client.backend}
    tunnels = {name: each for each in result.containers if each.tunnel for name in each.names}
    for container in result.containers:
        owner = tunnels.get(container.network.partition(":")[2])
        if owner is not None and id(container) not in served and not container.replaced:
            owner.replaced = False
            result.add_note(
                f"{container.where}: all its traffic uses the network of {owner.where}, but the gateway forwards only"
                f" to backends; add a backend for each server that the container uses, or keep {owner.where}"
            )


def _note_ports(container: ImportedContainer, result: ImportResult) -> None:
    """For each published port of a replaced container, add a note on how programs on this host can connect now."""
    if not container.replaced or not container.port_parts:
        return
    for forward in result.forwards:
        published = published_ports(forward, result) if forward.where == container.where and forward.backend else None
        for port in published or ():
            backend = result.backends[forward.backend]
            inner = split_target(backend["listen"])[1]
            container.use(*container.port_parts)
            programs = f"programs on this host that use its published port {port}"
            if KINDS[backend["kind"]].kernel_mounts:
                result.add_note(f"{container.where}: change {programs} to connect to port {inner}")
            else:
                result.add_note(
                    f"{container.where}: so that {programs} still work, publish 127.0.0.1:{port}:{inner} on the"
                    " gateway's container; if the gateway runs on the host instead of in a container, change these"
                    f" programs to connect to port {inner}"
                )


def note_rest(result: ImportResult) -> None:
    """Add notes on the containers that the gateway replaces, and on the settings that the import did not use.

    Args:
        result: The imported configuration, to which the function adds the notes.
    """
    for container in result.containers:
        _note_ports(container, result)
        parts = ", ".join(container.parts.values())
        if container.replaced:
            result.add_note(
                f"{container.where}: the gateway replaces it" + (f"; not needed: {parts}" if parts else "")
            )
        elif parts:
            result.add_note(f"{container.where}: unchanged: {parts}")
