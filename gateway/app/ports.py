"""Listeners of backends that have a volume and no address: a port for ever, since the volume cannot be edited."""

import json
from dataclasses import replace
from pathlib import Path

from gateway.config import Config
from gateway.contracts import Endpoint
from gateway.errors import GatewayError

FILE = "ports.json"
_FIRST, _LAST = 20490, 20990
_LOOPBACK = "127.0.0.1"


def with_ports(config: Config, *, record: bool = True) -> Config:
    """The configuration, where every backend with a volume listens somewhere.

    Args:
        config: As it was read.
        record: Whether to write down which port is new; without, it is the one that would be written down.

    Raises:
        GatewayError: The record cannot be read or written: another port would lead every volume astray.
    """
    wanted = [
        name
        for name, spec in config.backends.items()
        if not spec.listen and spec.kind.volume_options(spec.options) is not None
    ]
    if not wanted:
        return config
    path = config.gateway.state_dir / FILE
    known = _read(path)
    taken = {*known.values(), *(each.port for spec in config.backends.values() for each in spec.listen
                                if isinstance(each, Endpoint))}  # fmt: skip
    for name in wanted:
        if name not in known:
            port = next((port for port in range(_FIRST, _LAST) if port not in taken), None)
            if port is None:
                raise GatewayError(f"no port is left from {_FIRST} to {_LAST}: set listen for backend {name}")
            known[name] = port
            taken.add(port)
            if record:
                _write(path, known)
    listening = {
        name: replace(spec, listen=(Endpoint(_LOOPBACK, known[name]),)) if name in wanted else spec
        for name, spec in config.backends.items()
    }
    return replace(config, backends=listening)


def _read(path: Path) -> dict[str, int]:
    try:
        return {str(name): int(port) for name, port in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise GatewayError(f"{path}: {error}: repair it, or set listen for backends with a volume") from error


def _write(path: Path, ports: dict[str, int]) -> None:
    beside = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(ports, indent=1, sort_keys=True) + "\n")
        beside.replace(path)
    except OSError as error:
        raise GatewayError(f"{path}: {error.strerror} (gateway.state_dir, for the ports of volumes)") from error
