"""What to paste on the side of the containers: addresses as environment variables, volumes, manifests. Pure."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from gateway.app.docker_desired import is_loopback_only, mounts, volumes
from gateway.backends.common.volume import VolumeSpec
from gateway.config import Config
from gateway.contracts import Endpoint
from gateway.errors import UsageError


def env(config: Config, host: str | None) -> list[str]:
    """`ORDERS_HOST=…` and `ORDERS_PORT=…` for each backend.

    Args:
        config: The configuration.
        host: Where containers reach the gateway; None: by each backend's name, as on a Docker network.
    """
    lines = []
    for name, port in _listeners(config):
        prefix = "".join(letter if letter.isalnum() else "_" for letter in name).upper()
        lines += [f"{prefix}_HOST={host or name}", f"{prefix}_PORT={port}"]
    return lines


def compose(config: Config, host: str | None) -> str:
    """The parts of a compose file: an app with its environment and mounts, and the volumes."""
    specs = volumes(config)
    app: dict[str, Any] = {"environment": dict(line.split("=", 1) for line in env(config, host))}
    if config.docker is not None:
        prefix = config.docker.label_prefix
        names = ",".join(name for name, _ in _listeners(config))
        app["labels"] = {f"{prefix}.enable": "true", f"{prefix}.backends": names}
    if specs:
        app["volumes"] = [_mount(spec) for spec in specs]
    document: dict[str, Any] = {"services": {"app": app}}
    if specs:
        document["volumes"] = {
            spec.name: {
                "name": spec.name,
                "driver": spec.driver,
                # Compose reads $ as the beginning of a variable.
                "driver_opts": {key: value.replace("$", "$$") for key, value in spec.driver_options.items()},
            }
            for spec in specs
        }
    return yaml.safe_dump(document, sort_keys=False)


def docker_run(config: Config, host: str | None) -> list[str]:
    """Commands: one for each volume, and one that starts an app."""
    lines = []
    for spec in volumes(config):
        options = " ".join(f"--opt {shlex.quote(f'{key}={value}')}" for key, value in spec.driver_options.items())
        lines.append(f"docker volume create --driver {spec.driver} {options} {shlex.quote(spec.name)}")
    parts = ["docker run"]
    parts += [f"-e {shlex.quote(line)}" for line in env(config, host)]
    if config.docker is not None:
        names = ",".join(name for name, _ in _listeners(config))
        parts += [f"--label {config.docker.label_prefix}.enable=true",
                  f"--label {config.docker.label_prefix}.backends={names}"]  # fmt: skip
    for spec in volumes(config):
        # A value of --mount is one line of CSV: what holds a comma or a quote stands in quotes.
        text = f"type=volume,src={spec.name},dst=/mnt/{spec.name},volume-nocopy" + (
            ",readonly" if spec.read_only else ""
        )
        parts.append(f"--mount {shlex.quote(text)}")
    return [*lines, " \\\n  ".join([*parts, "IMAGE"])]


def kubernetes(config: Config) -> str:
    """A PersistentVolume and a claim for each volume; the gateway runs on every node, with the host's network."""
    documents = []
    for spec, mount in mounts(config):
        source = mount.persistent_volume(spec)
        if not re.fullmatch("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", spec.name):
            raise UsageError(f"volume {spec.name}: a name of Kubernetes has small letters, digits and -")
        mode = "ReadOnlyMany" if spec.read_only else "ReadWriteMany"
        documents.append({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": spec.name},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": [mode],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "mountOptions": [each for each in spec.options if each not in ("ro", "rw", f"addr={spec.address}")],
                **source,
            },
        })  # fmt: skip
        documents.append({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": spec.name},
            "spec": {
                "accessModes": [mode],
                "storageClassName": "",
                "volumeName": spec.name,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        })  # fmt: skip
    return yaml.safe_dump_all(documents, sort_keys=False)


def hints(config: Config) -> Iterator[str]:
    """What will not work as it is configured."""
    for name, spec in config.backends.items():
        for address in spec.listen:
            if isinstance(address, Endpoint) and is_loopback_only(address) and not spec.kind.kernel_mounts:
                yield f"{name} listens on {address}, which containers reach only with the host's network"


def _listeners(config: Config) -> Iterator[tuple[str, int]]:
    for name, spec in config.backends.items():
        port = next((address.port for address in spec.listen if isinstance(address, Endpoint)), None)
        if port is not None and not spec.kind.kernel_mounts:
            yield name, port


def _mount(spec: VolumeSpec) -> dict[str, Any]:
    # Without nocopy Docker copies the image's files onto the share, as root, which most servers refuse.
    return {
        "type": "volume", "source": spec.name, "target": f"/mnt/{spec.name}", "read_only": spec.read_only,
        "volume": {"nocopy": True},
    }  # fmt: skip
