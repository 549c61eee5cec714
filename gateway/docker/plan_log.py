"""Logs what is new in a plan: unavailable containers, refused attachments, and warnings."""

import logging

from gateway.docker.plan import AttachmentState, Plan
from gateway.docker.plan_log_limiter import PlanLogLimiter

log = logging.getLogger(__name__)


def log_changes(planned: Plan, limiter: PlanLogLimiter, now: float) -> None:
    """Log the warnings, refused attachments and unavailable containers that were not logged before.

    Args:
        planned: The plan.
        limiter: Selects the lines to log.
        now: The monotonic time in seconds.
    """
    refused = [
        (each.network, each.container, str(each.reason), each.message)
        for each in planned.attachments
        if each.state is AttachmentState.BLOCKED
    ]
    unavailable = [
        (each.container, str(each.cause), each.detail, each.message, each.command) for each in planned.unavailable
    ]
    new = set(limiter.select(unavailable, now))
    for container, cause, detail, why, command in filter(new.__contains__, unavailable):
        extra = {"container": container, "cause": cause, "detail": detail, "why": why, "command": command}
        log.warning("docker: container unavailable", extra=extra)
    if count := limiter.take_suppressed(now):
        log.info("docker: log lines suppressed", extra={"count": count})
    for each in limiter.select((*planned.warnings, *refused), now):
        if isinstance(each, tuple):
            extra = dict(zip(("network", "container", "reason", "detail"), each, strict=True))
            log.info("docker: attachment refused", extra=extra)
        elif each in planned.label_errors:
            log.info("docker: invalid label", extra={"detail": each})
        else:
            log.warning("docker: problem found", extra={"detail": each})
