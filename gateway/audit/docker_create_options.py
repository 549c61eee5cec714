"""Converts the output of `docker inspect`, except the mounts, to options of `docker create`. Does no I/O."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from gateway.audit.container_host_config_options import each_of, host_config_options
from gateway.audit.errors import UnsupportedContainerSettingError
from gateway.audit.snapshot_model import AuditedContainer
from gateway.secret_redaction import has_secrets


def options(container: AuditedContainer, cgroup_mode: str) -> tuple[list[str], list[str]]:
    """Return the options of `docker create`, and the arguments after the image.

    Options for the name, the mounts and the environment are omitted.

    Args:
        container: The existing container.
        cgroup_mode: The cgroup namespace mode that containers have by default.

    Raises:
        UnsupportedContainerSettingError: The container has settings that this module cannot convert, or settings that
            probably contain secrets.
    """
    found = list(host_config_options(container.inspection.get("HostConfig") or {}, cgroup_mode))
    entrypoint, command = _command(container)
    found += [*_own(container), *entrypoint]
    if not all(each.isprintable() for each in (*found, *command)):
        raise UnsupportedContainerSettingError("an option or argument contains a control character")
    if has_secrets([*found, *command]):
        raise UnsupportedContainerSettingError("an option or argument seems to contain a secret")
    return found, command


def variables(container: AuditedContainer) -> list[str]:
    """Return the names of the container's environment variables that do not come from its image.

    Raises:
        UnsupportedContainerSettingError: A value contains a line break.
    """
    from_image = set(container.defaults.get("Env") or ())
    given = [
        str(each) for each in (container.inspection.get("Config") or {}).get("Env") or () if each not in from_image
    ]
    if any("\n" in each for each in given):
        raise UnsupportedContainerSettingError("an environment variable contains a line break")
    return [each.partition("=")[0] for each in given]


def networks(container: AuditedContainer) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each network of a container, with the options for `docker network connect`."""
    found: Mapping[str, Any] = (container.inspection.get("NetworkSettings") or {}).get("Networks") or {}
    for name, endpoint in found.items():
        if name in ("host", "none", "podman"):
            continue
        addresses = endpoint.get("IPAMConfig") or {}
        given = [
            (flag, addresses[key])
            for key, flag in (("IPv4Address", "--ip"), ("IPv6Address", "--ip6"))
            if addresses.get(key)
        ]
        aliases = [each for each in endpoint.get("Aliases") or () if each not in (container.id[:12], container.name)]
        yield name, [*chain.from_iterable(given), *each_of("--alias")(aliases)]


def changed_addresses(container: AuditedContainer, first: str) -> Iterator[str]:
    """Yield the names of the networks on which a recreated container gets another MAC address.

    `docker create` sets the MAC address only on the network `first`. `docker network connect` cannot set it.

    Args:
        container: The existing container.
        first: The network to which `docker create` connects the recreated container.
    """
    found: Mapping[str, Any] = (container.inspection.get("NetworkSettings") or {}).get("Networks") or {}
    return (
        name
        for name, _ in networks(container)
        if name != first and _chosen(found[name].get("MacAddress"), found[name])
    )


def _own(container: AuditedContainer) -> Iterator[str]:
    config: Mapping[str, Any] = container.inspection.get("Config") or {}
    image = container.defaults
    for key in ("Healthcheck", "Domainname"):
        if config.get(key) and config[key] != image.get(key):
            raise UnsupportedContainerSettingError(key)
    for key, flag in (("User", "-u"), ("WorkingDir", "-w"), ("StopSignal", "--stop-signal")):
        if config.get(key) and config[key] != image.get(key):
            yield from (flag, str(config[key]))
    if config.get("StopTimeout") is not None:
        yield from ("--stop-timeout", str(config["StopTimeout"]))
    if config.get("Hostname") and not container.id.startswith(config["Hostname"]) and not _shares_name(container):
        yield from ("-h", str(config["Hostname"]))
    if address := _mac_address(container):
        yield from ("--mac-address", address)
    yield from (flag for key, flag in (("Tty", "-t"), ("OpenStdin", "-i")) if config.get(key))
    published = (container.inspection.get("HostConfig") or {}).get("PortBindings") or {}
    known = {*published, *(image.get("ExposedPorts") or ())}
    yield from each_of("--expose")(each for each in config.get("ExposedPorts") or () if each not in known)
    labels = image.get("Labels") or {}
    own = (config.get("Labels") or {}).items()
    yield from each_of("--label")(f"{key}={value}" for key, value in own if labels.get(key) != value)


def _mac_address(container: AuditedContainer) -> str:
    """Return the MAC address to set on the first network; empty if the engine derived it from the IPv4 address.

    A MAC address that is not derived from the IPv4 address was configured by the user, or generated by Docker 28 or
    later. The output of `docker inspect` does not show which, so return the MAC address in both cases.
    """
    config: Mapping[str, Any] = container.inspection.get("Config") or {}
    found: Mapping[str, Any] = (container.inspection.get("NetworkSettings") or {}).get("Networks") or {}
    mode = str((container.inspection.get("HostConfig") or {}).get("NetworkMode", ""))
    mode = "bridge" if mode == "default" else mode
    endpoint: Mapping[str, Any] = next(
        (each for name, each in found.items() if mode in (name, each.get("NetworkID"))), {}
    )
    return _chosen(config.get("MacAddress") or endpoint.get("MacAddress"), endpoint)


def _chosen(address: Any, endpoint: Mapping[str, Any]) -> str:
    parts = [f"{int(each):02x}" for each in str(endpoint.get("IPAddress") or "").split(".") if each.isdecimal()]
    return "" if not address or address == ":".join(["02", "42", *parts]) else str(address)


def _command(container: AuditedContainer) -> tuple[list[str], list[str]]:
    """Return the option `--entrypoint`, and the arguments after the image.

    The option is empty if the container uses the entrypoint of its image.
    """
    config: Mapping[str, Any] = container.inspection.get("Config") or {}
    command = [str(each) for each in config.get("Cmd") or ()]
    entrypoint = [str(each) for each in config.get("Entrypoint") or ()]
    if entrypoint != (container.defaults.get("Entrypoint") or []):
        return ["--entrypoint", entrypoint[0] if entrypoint else ""], [*entrypoint[1:], *command]
    return [], [] if command == (container.defaults.get("Cmd") or []) else command


def _shares_name(container: AuditedContainer) -> bool:
    mode = str((container.inspection.get("HostConfig") or {}).get("NetworkMode", ""))
    return mode == "host" or mode.startswith("container:")
