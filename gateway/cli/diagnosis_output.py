"""Prints the diagnosis from `/api/v1/status`: what has failed, why, and what to do."""

from typing import Any

from gateway.cli.terminal_output import print_text, print_wrapped
from gateway.cli.value_format import format_age, format_clock, format_reason, plain_commands
from gateway.ops.diagnosis import MAX_CAUSES
from gateway.ops.plural import plural
from gateway.ops.state_descriptions import state_name

_COLORS = {"bad": "red", "warning": "yellow"}


def headline(status: dict[str, Any]) -> str:
    """Return one line about the service: its phase, the time since its start, and its version."""
    age, began = format_age(status["started_at"]), format_clock(status["started_at"])
    return f"{status['instance']}: {status['status']}; running since {began} ({age}), version {status['version']}"


def causes_of(status: dict[str, Any], backend: str) -> list[dict[str, Any]]:
    """Return the failures in the diagnosis that affect a backend: its own failure, and those of its tunnels.

    Args:
        status: The body of `/api/v1/status`.
        backend: The name of the backend.
    """
    return [
        each
        for each in status["diagnosis"]["causes"]
        if (each["part"], each["name"]) == ("backend", backend)
        or any(backend in each[effect] for effect in ("blocked", "degraded", "rerouted"))
    ]


def describe_cause(cause: dict[str, Any]) -> str:
    """Return one line about an item of `causes` in the diagnosis. Omit the detail and the remedy of the item."""
    effects = f"; {cause['effects']}" if cause["effects"] else ""
    since = format_clock(cause["since"])
    return f"{cause['name']} {state_name(cause['state'])} since {since}: {cause['cause']}{effects}"


def print_cause(cause: dict[str, Any], label: str = "", *, details: bool = True) -> None:
    """Print an item of `causes` in the diagnosis, with its detail and its remedy.

    Args:
        cause: The item.
        label: Text to print before the item, such as `warning: `.
        details: Whether to print the detail.
    """
    print_wrapped(label + describe_cause(cause), fg=_COLORS.get(cause["level"]))
    if details and cause["detail"]:
        print_wrapped(format_reason(cause), indent="  ")
    if cause["remedy"]:
        print_wrapped(f"to do: {plain_commands(cause['remedy'])}", indent="  ")


def print_diagnosis(status: dict[str, Any], *, details: bool = True) -> None:
    """Print the diagnosis: the worst failures, the number of other failures, a summary, and the number of clients.

    Args:
        status: The body of `/api/v1/status`.
        details: Whether to print the detail of each failure.
    """
    causes = status["diagnosis"]["causes"]
    for each in causes[:MAX_CAUSES]:
        print_cause(each, details=details)
    if causes[MAX_CAUSES:]:
        print_text(f"{plural(len(causes) - MAX_CAUSES, 'more cause')}: see below")
    connections = [each["connections"] for each in status["backends"].values()]
    waiting = sum(each["waiting"] for each in connections)
    clients = plural(sum(each["active"] for each in connections) - waiting, "client")
    print_text(f"{status['diagnosis']['headline']}; {clients} connected, {waiting} waiting")


def print_notices(status: dict[str, Any]) -> None:
    """Print the warnings of the service. If the last reload failed, also print its error.

    Args:
        status: The body of `/api/v1/status`.
    """
    reload = status["reload"]
    if not reload["successful"]:
        at = reload.get("failed_at")  # an older gateway does not return this key
        failed = "The last reload failed" + (f" at {format_clock(at)}" if at else "")
        print_wrapped(f"{failed}, and the previous configuration is in effect: {reload['error']}", fg="red")
    for warning in status["warnings"]:
        print_wrapped(f"warning: {warning}", fg="yellow")
