"""Converts the `HostConfig` of an inspected container to options of `docker create`. Does no I/O."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.audit.errors import UnsupportedContainerSettingError

_MOUNTS = {"Binds", "Mounts", "Tmpfs", "VolumesFrom", "AutoRemove"}
"""Keys of `HostConfig` that this module ignores: the keys of mounts, which another module converts, and `AutoRemove`
(`--rm`), which the new container never has."""
_NO_OPTIONS = {"MaskedPaths", "ReadonlyPaths", "CgroupnsMode", "ContainerIDFile", "ConsoleSize", "Isolation",
               "VolumeDriver", "Cgroup", "IOMaximumBandwidth", "IOMaximumIOps"}  # fmt: skip
"""Keys of `HostConfig` that need no entry in `_OPTIONS`, because the engine sets them or other code handles them."""
_MOUNT_OPTIONS = ("VolumeOptions", "BindOptions", "TmpfsOptions", "ClusterOptions", "ImageOptions")


def host_config_options(host: Mapping[str, Any], cgroup_mode: str) -> Iterator[str]:
    """Yield the options of `docker create` that reproduce a `HostConfig`, except those for mounts.

    Args:
        host: The `HostConfig`.
        cgroup_mode: The cgroup namespace mode that containers have by default.

    Raises:
        UnsupportedContainerSettingError: `host` has a setting that this function does not convert.
    """
    left_out = sorted(
        key for key, value in host.items() if value and key not in _OPTIONS.keys() | _MOUNTS | _NO_OPTIONS
    )
    if left_out:
        raise UnsupportedContainerSettingError(", ".join(left_out))
    if any(each.get(key) for each in host.get("Mounts") or () for key in _MOUNT_OPTIONS):
        raise UnsupportedContainerSettingError("a mount has options that -v cannot express")
    if host.get("MaskedPaths") == [] and not host.get("Privileged"):
        raise UnsupportedContainerSettingError("the container has --security-opt systempaths=unconfined")
    if host.get("CgroupnsMode") not in (None, "", cgroup_mode):
        yield from ("--cgroupns", str(host["CgroupnsMode"]))
    for key, option in _OPTIONS.items():
        value = host.get(key)
        if value or (key == "Init" and value is False):
            yield from option(value)


def each_of(flag: str) -> Callable[[Any], Iterator[str]]:
    """Return a function that converts a list of values to options, with `flag` before each value."""

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


def restart_policy(policy: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options for a restart policy. For the policy `no`, yield no options."""
    name, count = policy.get("Name", "no"), policy.get("MaximumRetryCount", 0)
    if name not in ("", "no"):
        yield from ("--restart", f"{name}:{count}" if count else name)


def _security(values: Any) -> Iterator[str]:
    if any(str(each).startswith(("seccomp={", "seccomp:{")) for each in values):
        raise UnsupportedContainerSettingError(
            "--security-opt seccomp=FILE requires the profile file, whose path is not known"
        )
    yield from each_of("--security-opt")(values)


def _devices(devices: Any) -> Iterator[str]:
    for each in devices:
        parts = (each["PathOnHost"], each["PathInContainer"], each.get("CgroupPermissions", "rwm"))
        yield from ("--device", ":".join(parts))


def _ulimits(limits: Any) -> Iterator[str]:
    for each in limits:
        yield from ("--ulimit", f"{each['Name']}={each['Soft']}:{each['Hard']}")


def _log(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("Type") != "json-file":
        yield from ("--log-driver", str(config.get("Type")))
    for key, value in (config.get("Config") or {}).items():
        yield from ("--log-opt", f"{key}={value}")


def _true(flag: str) -> Callable[[Any], Iterator[str]]:
    def option(value: Any) -> Iterator[str]:
        if value:
            yield flag

    return option


def _annotations(values: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        if not key.startswith(("io.podman.", "io.container.", "run.oci.", "org.opencontainers.")):
            yield from ("--annotation", f"{key}={value}")


_OPTIONS: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "PortBindings": _ports,
    "RestartPolicy": restart_policy,
    "NetworkMode": _one("--network", "default", "bridge"),
    "CapAdd": each_of("--cap-add"),
    "CapDrop": each_of("--cap-drop"),
    "Dns": each_of("--dns"),
    "DnsOptions": each_of("--dns-option"),
    "DnsSearch": each_of("--dns-search"),
    "ExtraHosts": each_of("--add-host"),
    "GroupAdd": each_of("--group-add"),
    "SecurityOpt": _security,
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
    "Sysctls": lambda values: each_of("--sysctl")(f"{key}={value}" for key, value in values.items()),
    "LogConfig": _log,
    "Runtime": _one("--runtime", "runc", "crun", "oci"),
    "MemorySwappiness": _one("--memory-swappiness", -1),
    "Annotations": _annotations,
}
