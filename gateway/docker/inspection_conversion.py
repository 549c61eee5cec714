"""Parses values from the inspection of a container, such as signals, times, and the result of the last start."""

import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway.docker.container_last_start import ContainerLastStart

_STOP_TIMEOUT = 10.0
"""The engine's default for `StopTimeout` of a container, in seconds."""


def last_start(inspection: Mapping[str, Any]) -> ContainerLastStart:
    """Return the result of the container's last start, from an inspection of the container."""
    state = inspection.get("State") or {}
    policy = (inspection.get("HostConfig") or {}).get("RestartPolicy") or {}
    config = inspection.get("Config") or {}
    stop_timeout = config.get("StopTimeout")
    return ContainerLastStart(
        error=str(state.get("Error") or ""),
        restarts=policy.get("Name") not in (None, "", "no"),
        at=epoch(str(state.get("StartedAt"))),
        running=bool(state.get("Running")) and not state.get("Paused"),
        stop_timeout=_STOP_TIMEOUT if stop_timeout is None else float(stop_timeout),
        stop_signal=signal_number(str(config.get("StopSignal") or "SIGTERM")),
    )


def signal_number(text: str) -> int:
    """Return the number of a signal, such as `SIGHUP`, `HUP` or `1`; 0 for other strings, such as `RTMIN+3`."""
    if text.isdecimal():
        return int(text)
    return signal.Signals.__members__.get(f"SIG{text.upper().removeprefix('SIG')}", 0)


def epoch(text: str) -> float:
    """Convert a time from the engine (RFC 3339) to seconds since the epoch; 0 if `text` is not a valid time."""
    try:
        at = datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, at)
