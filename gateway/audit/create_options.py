"""Options of `docker create` that create a container like an existing one, except for its mounts. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.audit.model import Container

_SECRET = re.compile(r"pass|secret|token|credential|private|api.?key|://[^/@\s]+:[^/@\s]+@", re.IGNORECASE)
_MOUNTS = {"Binds", "Mounts", "Tmpfs", "VolumesFrom", "AutoRemove", "ContainerIDFile", "ConsoleSize"}
"""Keys of `HostConfig` that are replaced, or that an engine sets itself."""
_SET_BY_ENGINE = {"MaskedPaths", "ReadonlyPaths", "CgroupnsMode", "Isolation", "Runtime", "VolumeDriver", "Cgroup",
                  "IOMaximumBandwidth", "IOMaximumIOps", "Annotations", "MemorySwappiness"}  # fmt: skip


_MOUNT_OPTIONS = ("VolumeOptions", "BindOptions", "TmpfsOptions", "ClusterOptions", "ImageOptions")


class NotReproducibleError(Exception):
    """A container has settings that this module does not reproduce, or that hold secrets; the message names them."""


def _each(flag: str) -> Callable[[Any], Iterator[str]]:
    def options(values: Any) -> Iterator[str]:
        for value in values:
            yield from (flag, str(value))

    return options


def _one(flag: str, *defaults: object) -> Callable[[Any], Iterator[str]]:
    def option(value: Any) -> Iterator[str]:
        if value not in defaults:
            yield from (flag, str(value))

    return option


def _ports(bindings: Mapping[str, Any]) -> Iterator[str]:
    for port, hosts in bindings.items():
        for host in hosts or [{}]:
            address, number = host.get("HostIp", ""), host.get("HostPort", "")
            address = f"[{address}]" if ":" in address else address
            yield from ("-p", f"{address}:{number}:{port}" if address else f"{number}:{port}".lstrip(":"))


def _restart(policy: Mapping[str, Any]) -> Iterator[str]:
    name, count = policy.get("Name", "no"), policy.get("MaximumRetryCount", 0)
    if name not in ("", "no"):
        yield from ("--restart", f"{name}:{count}" if count else name)


def _devices(devices: Any) -> Iterator[str]:
    for each in devices:
        parts = (each["PathOnHost"], each["PathInContainer"], each.get("CgroupPermissions", "rwm"))
        yield from ("--device", ":".join(parts))


def _ulimits(limits: Any) -> Iterator[str]:
    for each in limits:
        yield from ("--ulimit", f"{each['Name']}={each['Soft']}:{each['Hard']}")


def _log(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("Type") not in ("json-file", "journald", "k8s-file", "local"):
        yield from ("--log-driver", str(config.get("Type")))
    for key, value in (config.get("Config") or {}).items():
        yield from ("--log-opt", f"{key}={value}")


def _true(flag: str) -> Callable[[Any], Iterator[str]]:
    def option(value: Any) -> Iterator[str]:
        if value:
            yield flag

    return option


_HOST: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "PortBindings": _ports,
    "RestartPolicy": _restart,
    "NetworkMode": _one("--network", "default", "bridge"),
    "CapAdd": _each("--cap-add"),
    "CapDrop": _each("--cap-drop"),
    "Dns": _each("--dns"),
    "DnsOptions": _each("--dns-option"),
    "DnsSearch": _each("--dns-search"),
    "ExtraHosts": _each("--add-host"),
    "GroupAdd": _each("--group-add"),
    "SecurityOpt": _each("--security-opt"),
    "Devices": _devices,
    "Privileged": _true("--privileged"),
    "PublishAllPorts": _true("-P"),
    "ReadonlyRootfs": _true("--read-only"),
    "Init": lambda value: iter(() if value is None else (f"--init={str(value).lower()}",)),
    "PidMode": _one("--pid"),
    "IpcMode": _one("--ipc", "private", "shareable"),
    "UTSMode": _one("--uts"),
    "UsernsMode": _one("--userns"),
    "ShmSize": _one("--shm-size", 67108864, 65536000),
    "Memory": _one("--memory"),
    "MemoryReservation": _one("--memory-reservation"),
    "MemorySwap": _one("--memory-swap"),
    "NanoCpus": lambda value: iter(("--cpus", f"{value / 1e9:g}")),
    "CpuShares": _one("--cpu-shares"),
    "CpusetCpus": _one("--cpuset-cpus"),
    "PidsLimit": _one("--pids-limit", 2048),
    "OomScoreAdj": _one("--oom-score-adj"),
    "Ulimits": _ulimits,
    "Sysctls": lambda values: _each("--sysctl")(f"{key}={value}" for key, value in values.items()),
    "LogConfig": _log,
}


def options(container: Container) -> tuple[list[str], list[str]]:
    """Return the options, without name, mounts and environment, and the command after the image.

    Args:
        container: The existing container.

    Raises:
        NotReproducibleError: The container has settings that have no translation here, or that seem to hold secrets.
    """
    host: Mapping[str, Any] = container.inspection.get("HostConfig") or {}
    left_out = sorted(
        key for key, value in host.items() if value and key not in _HOST.keys() | _MOUNTS | _SET_BY_ENGINE
    )
    if left_out:
        raise NotReproducibleError(", ".join(left_out))
    if any(each.get(key) for each in host.get("Mounts") or () for key in _MOUNT_OPTIONS):
        raise NotReproducibleError("options of --mount")
    found = [each for key, option in _HOST.items() if host.get(key) for each in option(host[key])]
    own, command = _own(container)
    found += own
    if not all(each.isprintable() for each in (*found, *command)):
        raise NotReproducibleError("options or arguments of several lines")
    if any(_SECRET.search(each) for each in (*found, *command)):
        raise NotReproducibleError("options or arguments that seem to hold secrets")
    return found, command


def variables(container: Container) -> list[str]:
    """Return the names of the environment variables that do not come from the image.

    Raises:
        NotReproducibleError: A value has several lines.
    """
    from_image = set(container.image_config.get("Env") or ())
    given = [
        str(each) for each in (container.inspection.get("Config") or {}).get("Env") or () if each not in from_image
    ]
    if any("\n" in each for each in given):
        raise NotReproducibleError("environment variables of several lines")
    return [each.partition("=")[0] for each in given]


def networks(container: Container) -> Iterator[tuple[str, list[str]]]:
    """Yield each user-defined network, and options of `docker network connect` or `docker create` for it."""
    found: Mapping[str, Any] = (container.inspection.get("NetworkSettings") or {}).get("Networks") or {}
    for name, endpoint in found.items():
        if name in ("bridge", "host", "none", "podman"):
            continue
        address = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
        aliases = [each for each in endpoint.get("Aliases") or () if each not in (container.id[:12], container.name)]
        yield name, [*(("--ip", address) if address else ()), *_each("--alias")(aliases)]


def _own(container: Container) -> tuple[list[str], list[str]]:
    config: Mapping[str, Any] = container.inspection.get("Config") or {}
    image = container.image_config
    found: list[str] = []
    for key, flag in (("User", "-u"), ("WorkingDir", "-w"), ("StopSignal", "--stop-signal")):
        if config.get(key) and config[key] != image.get(key):
            found += [flag, str(config[key])]
    if config.get("StopTimeout") is not None:
        found += ["--stop-timeout", str(config["StopTimeout"])]
    if config.get("Hostname") and not container.id.startswith(config["Hostname"]) and not _shares_name(container):
        found += ["-h", str(config["Hostname"])]
    found += [flag for key, flag in (("Tty", "-t"), ("OpenStdin", "-i")) if config.get(key)]
    labels = image.get("Labels") or {}
    for key, value in (config.get("Labels") or {}).items():
        if labels.get(key) != value:
            found += ["--label", f"{key}={value}"]
    for key in ("Healthcheck", "Domainname"):
        if config.get(key) and config[key] != image.get(key):
            raise NotReproducibleError(key)
    command = [str(each) for each in config.get("Cmd") or ()]
    entrypoint = [str(each) for each in config.get("Entrypoint") or ()]
    if entrypoint != (image.get("Entrypoint") or []):
        return [*found, "--entrypoint", entrypoint[0] if entrypoint else ""], [*entrypoint[1:], *command]
    return found, [] if command == (image.get("Cmd") or []) else command


def _shares_name(container: Container) -> bool:
    mode = str((container.inspection.get("HostConfig") or {}).get("NetworkMode", ""))
    return mode == "host" or mode.startswith("container:")
