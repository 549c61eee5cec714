"""Renders the commands that change the mounts of a swarm service. Does no I/O."""

import re
from collections.abc import Iterator

from gateway.audit.data_copy_commands import require_absent_volumes, saved
from gateway.audit.proposed_mount_changes import ProposedMountChanges, given_mounts, new_volumes
from gateway.audit.shell_command_builder import command, script
from gateway.audit.snapshot_model import AuditedContainer
from gateway.audit.storage_behind_mount import SECRETS
from gateway.secret_redaction import has_secrets
from gateway.text_sanitizer import one_line

NODE_LABEL = "com.docker.swarm.node.id"


def service_update(service: str, container: AuditedContainer, change: ProposedMountChanges, cli: str) -> str:
    """Return commands that change the mounts of a swarm service.

    If the change copies data, the commands only save the data of `container`, because a service update would start
    new tasks with empty volumes. Shell comments list the remaining steps.

    Args:
        service: The name of the service.
        container: A task of the service.
        change: The changes to the mounts.
        cli: The engine's command line client.
    """
    pin = [f"node.id=={container.labels[NODE_LABEL]}"] if change.copied and container.labels.get(NODE_LABEL) else []
    words = [cli, "service", "update", *(word for each in pin for word in ("--constraint-add", each))]
    for path in sorted({*change.mounts, *change.dropped, *change.read_only}):
        words += ["--mount-rm", path]
    for path in sorted({*change.mounts, *change.read_only}):
        old = next((each for each in container.mounts if each.path == path), None)
        source = change.mounts.get(path) or (old.volume or old.source if old else "")
        kind = "bind" if source.startswith("/") else "volume"
        driver = list(_driver_fields(container, change, path, source)) if kind == "volume" else []
        if not all(map(_is_printable, driver)):
            return f"# an option of the volume {one_line(source)} is a secret, so no command is safe to print"
        read_only = ["readonly"] if path in change.read_only else []
        fields = (f"type={kind}", f"source={source}", f"target={path}", *read_only, *driver)
        words += ["--mount-add", _csv(*fields)]
    update = command(*words, service)
    if not change.copied:
        if change.setup:
            return "\n".join((
                f"# run the following commands on each node that can run a task of {service}; then run:",
                f"# {update}",
                "# if a node does not have the volume, first copy the credentials file from another node to it",
                script(*change.setup),
            ))  # fmt: skip
        # Do not create the volumes: each node creates them from the options in `--mount-add`.
        absent = require_absent_volumes(cli, change)
        return script(*absent, update) if absent else update
    volumes = ", ".join(sorted(change.mounts.values()))
    return "\n".join((
        saved(cli, container, change.copied),
        f"# These commands save the data of one task, and change nothing. First stop the clients of {service},",
        "# because the copy does not contain the data that they write afterwards. Each task has separate data.",
        f"# Then create the volume {volumes} on this node, copy the saved files into it, and run:",
        f"# {update}",
    ))  # fmt: skip


def _driver_fields(
    container: AuditedContainer, change: ProposedMountChanges, path: str, source: str
) -> Iterator[str]:
    """Yield the driver and its options for a mount. Without them, a node would create an empty local volume."""
    if source in new_volumes(change):
        if change.driver_options:
            yield "volume-driver=local"
        yield from (f"volume-opt={value}" for value in change.driver_options[1::2])  # each value follows `-o`
        return
    for mount in given_mounts(container, "volume"):
        if mount.get("Target") == path:
            driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
            if driver.get("Name"):
                yield f"volume-driver={driver['Name']}"
            yield from (f"volume-opt={name}={value}" for name, value in (driver.get("Options") or {}).items())


def _is_printable(field: str) -> bool:
    """Return whether a field of `--mount` contains neither a password nor control characters."""
    names = {option.partition("=")[0] for option in re.split("[=,]", field)}
    return field.isprintable() and not SECRETS & names and not has_secrets([field])


def _csv(*fields: str) -> str:
    """Return the fields of a `--mount` value as CSV (RFC 4180)."""
    return ",".join('"' + each.replace('"', '""') + '"' if "," in each or '"' in each else each for each in fields)
