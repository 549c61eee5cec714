"""Finds hazards in the snapshot of an engine. Does no I/O.

Each module in `_MODULES` has a function `find`, which yields findings.
"""

from gateway.audit.hazards import (
    files_hidden_by_mounts,
    network_mounts,
    sensitive_host_access,
    shared_and_unused_volumes,
    volatile_data,
)
from gateway.audit.report import AuditReport, Finding, Severity
from gateway.audit.snapshot_model import AuditSnapshot
from gateway.audit.storage_locations import places

_MODULES = (volatile_data, network_mounts, shared_and_unused_volumes, sensitive_host_access, files_hidden_by_mounts)


def build_report(snapshot: AuditSnapshot) -> AuditReport:
    """Return the report on a snapshot: where containers store data, and all hazards, most severe first."""
    found = [each for module in _MODULES for each in module.find(snapshot)]
    order = tuple(Severity)

    def rank(each: Finding) -> tuple[int, str, str, str]:
        return order.index(each.severity), each.subject, each.path, each.rule.id

    return AuditReport(tuple(sorted(found, key=rank)), tuple(places(snapshot)), snapshot.unchecked)
