"""Assigns a port to each backend that has a Docker volume but no configured listener.

A backend keeps its port forever, because the Docker volume contains the port and cannot be edited.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gateway.atomic_file import replace_file
from gateway.config import Config
from gateway.config.consistency_validation import conflict
from gateway.contracts.config_types import HostPort
from gateway.errors import GatewayError

FILE = "ports.json"
_FIRST, _LAST = 20490, 20990
_LOOPBACK = "127.0.0.1"


def with_ports(config: Config, *, record: bool = True) -> Config:
    """Return the configuration with a listener on loopback for each backend that has a volume but no listener.

    Args:
        config: The configuration as it is in the file.
        record: Whether to write newly assigned ports to `state_dir`.

    Raises:
        GatewayError: No port is free, or a recorded port is now the port of a configured listener, or `ports.json`
            cannot be read or written. Without this file, the gateway might assign a port that another backend's
            volume already uses.
    """
    unassigned = [
        name
        for name, spec in config.backends.items()
        if not spec.listen and spec.kind.volume_options(spec.options) is not None
    ]
    if not unassigned:
        return config
    path = config.gateway.state_dir / FILE
    ports = _read(path)
    configured = {
        listener: f"backend {name}" for name, spec in config.backends.items() for listener in spec.listen
    } | {each: "ops" for each in (config.ops.listen, config.ops.probe_listen) if each is not None}
    taken = {*ports.values(), *(each.port for each in configured if not each.is_unix)}
    for name in unassigned:
        if name in ports:
            _check_port(name, HostPort(_LOOPBACK, ports[name]), configured, path)
        else:
            port = next((port for port in range(_FIRST, _LAST) if port not in taken), None)
            if port is None:
                raise GatewayError(f"no port from {_FIRST} to {_LAST - 1} is free: set listen for backend {name}")
            ports[name] = port
            taken.add(port)
            if record:
                _write(path, ports)
    listening = {
        name: replace(spec, listen=(HostPort(_LOOPBACK, ports[name]),)) if name in unassigned else spec
        for name, spec in config.backends.items()
    }
    return replace(config, backends=listening)


def _check_port(name: str, recorded: HostPort, configured: Mapping[HostPort, str], path: Path) -> None:
    for listener, owner in configured.items():
        if conflict(recorded, listener):
            raise GatewayError(
                f"{owner} listens on {listener}, but the volume of backend {name} uses port {recorded.port}"
                f" (see {path}): choose another port for {owner}"
            )


def _read(path: Path) -> dict[str, int]:
    try:
        return {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise GatewayError(f"{path}: {error}: repair the file, or set listen for backends with a volume") from error


def _write(path: Path, ports: dict[str, int]) -> None:
    try:
        replace_file(path, json.dumps(ports, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise GatewayError(
            f"{path}: cannot record the ports of volumes ({error.strerror}): set gateway.state_dir to a writable"
            " directory"
        ) from error
