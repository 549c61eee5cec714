"""Converts reports to SARIF 2.1.0 (OASIS Standard, 27 March 2020), for code scanning. Does no I/O."""

import hashlib
import posixpath
from typing import Any
from urllib.parse import quote

from gateway.audit.hazard_rules import RULES
from gateway.audit.report import AuditReport, Finding, Severity

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.HIGH: "error", Severity.MEDIUM: "warning", Severity.LOW: "note"}


def sarif(report: AuditReport, version: str) -> dict[str, Any]:
    """Return a report as a SARIF log.

    Args:
        report: The report.
        version: The version of the gateway. The SARIF log contains it as the version of the tool.
    """
    rules = [
        {
            "id": each.id,
            "shortDescription": {"text": each.title},
            "fullDescription": {"text": each.why},
            "help": {"text": each.why},
        }
        for each in RULES
    ]
    order = [each.id for each in RULES]
    notes = [{"level": "note", "message": {"text": each}} for each in report.unchecked]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "gateway audit", "version": version, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
                "results": [_result(each, order.index(each.rule.id)) for each in report.findings],
            }
        ],
    }


def _result(finding: Finding, index: int) -> dict[str, Any]:
    name = f"{finding.subject}:{finding.path}" if finding.path else finding.subject
    fingerprint = hashlib.sha256(f"{finding.rule.id} {name}".encode()).hexdigest()
    # Some viewers show only results that name a file. If there is no Compose file, use the name of the container or
    # volume as the file name.
    file = posixpath.basename(finding.source) or f"containers/{finding.subject}"
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{name}: {finding.what}. {finding.rule.why}\nFix:\n{finding.fix}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": quote(file)}, "region": {"startLine": 1}},
                "logicalLocations": [{"fullyQualifiedName": name, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"audit/v1": fingerprint},
        "properties": {"severity": str(finding.severity)},
    }
