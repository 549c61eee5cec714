"""Logs the state changes of a tunnel."""

import logging

from gateway.contracts.states import TrafficClass, TunnelState
from gateway.errors import FailureReason

log = logging.getLogger(__name__)


class TunnelStateLog:
    """Logs when a tunnel becomes up, suspect, down or quarantined.

    Args:
        tunnel: The name of the tunnel.
        far_side: The name of the tunnel's server; see `Tunnel.far_side`.
        traffic_class: The traffic class of the lane. The log contains it if it is `bulk`.
    """

    def __init__(self, tunnel: str, far_side: str, traffic_class: TrafficClass) -> None:
        self._extra = {"tunnel": tunnel, "far_side": far_side}
        if traffic_class is TrafficClass.BULK:
            self._extra["traffic"] = traffic_class
        self._last: tuple[TunnelState, FailureReason | None] | None = None

    def record(self, state: TunnelState, reason: FailureReason | None, detail: str) -> None:
        """Log a state, unless the state and the reason are the same as in the last call."""
        if (state, reason) == self._last:
            return
        self._last = state, reason
        extra = {**self._extra, "reason": str(reason), "detail": detail}
        if state is TunnelState.UP:
            log.info("tunnel up", extra=self._extra)
        elif state is TunnelState.QUARANTINED:
            log.error("tunnel quarantined", extra=extra)
        elif state is TunnelState.SUSPECT:
            log.warning("tunnel suspect", extra=extra)
        elif state is TunnelState.BACKOFF:
            log.warning("tunnel down", extra=extra)
