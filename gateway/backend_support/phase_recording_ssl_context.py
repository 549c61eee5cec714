"""Defines `PhaseRecordingSslContext`, which measures PyMySQL's TLS handshakes."""

import ssl
import time
from typing import Any

from gateway.certificate_validity import der_validity
from gateway.contracts.certificate import ValidityPeriod
from gateway.contracts.phase_timer import PhaseTimer


class PhaseRecordingSslContext:
    """Wraps an `ssl.SSLContext` for PyMySQL.

    Records the duration of the phase `tls`, and the validity period of the server's certificate.
    """

    def __init__(self, context: ssl.SSLContext, phases: PhaseTimer) -> None:
        self._context = context
        self._phases = phases
        self.seconds = 0.0
        self.certificate: ValidityPeriod | None = None

    def wrap_socket(self, sock: Any, server_hostname: str) -> ssl.SSLSocket:
        """Perform the TLS handshake, and return the TLS socket; see `ssl.SSLContext.wrap_socket`."""
        started = time.perf_counter()
        try:
            with self._phases("tls"):
                made = self._context.wrap_socket(sock, server_hostname=server_hostname)
            self._phases.unfinished = "auth"
            self.certificate = der_validity(made.getpeercert(binary_form=True) or b"")
            return made
        finally:
            self.seconds = time.perf_counter() - started
