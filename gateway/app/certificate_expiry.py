"""Lists the certificates that the gateway uses, and warns before they expire."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.app.running_backend import RunningBackend
from gateway.certificate_validity import ca_credentials, file_validities
from gateway.config import Config
from gateway.contracts.certificate import MonitoredCertificate
from gateway.ops.status_json import iso

log = logging.getLogger(__name__)

_POLL_INTERVAL = 5.0
"""Seconds between two reads of the certificate files. Some certificates are valid for only a few minutes."""
_READ_TIMEOUT = 30.0
"""Seconds after which the gateway logs a warning that a read of the certificate files takes too long."""

NamedCredential = tuple[str, MonitoredCertificate]
"""The name of a tunnel, backend or configuration section, and a certificate that it uses."""


def read_credentials(config: Config) -> list[NamedCredential]:
    """Return the certificates in the files that a configuration names. Skip unreadable files. The call blocks."""
    found = [
        (name, credential)
        for name, tunnel in config.tunnels.items()
        for credential in tunnel.kind.credentials(tunnel.options)
    ]
    found += [
        (name, credential)
        for name, backend in config.backends.items()
        for credential in backend.kind.credentials(backend.options, backend.check_options)
    ]
    if config.docker is not None:
        found += _tls_credentials("docker", config.docker.tls.ca_file, config.docker.tls.cert_file)
    if config.ops.tls is not None:
        found += _tls_credentials("ops", config.ops.tls.client_ca_file, config.ops.tls.cert_file)
    for name, tls in (("fleet", config.fleet.tls), ("traces", config.traces.tls)):
        found += _tls_credentials(name, tls.ca_file, tls.cert_file)
    return found


def _tls_credentials(name: str, ca_file: Path | None, cert_file: Path | None) -> list[NamedCredential]:
    own = [MonitoredCertificate("tls", str(cert_file), each) for each in file_validities(cert_file)]
    return [(name, credential) for credential in (*ca_credentials(ca_file), *own)]


def server_credentials(backends: list[RunningBackend]) -> Iterator[NamedCredential]:
    """Yield the certificates that servers have presented during checks."""
    for backend in backends:
        for each in backend.targets:
            certificate = each.record.probe_result.certificate
            if certificate is not None:
                yield backend.spec.name, MonitoredCertificate("tls", str(each.target), certificate)


def expiry_warnings(found: list[NamedCredential], now: float) -> list[str]:
    """Return a warning for each certificate that has expired or expires soon. Does no I/O.

    Args:
        found: The certificates.
        now: Epoch seconds, from `time.time()`.
    """
    warnings = []
    for name, credential in found:
        validity = credential.validity
        if validity.expires_soon(now):
            when = "expired" if validity.expires <= now else "expires"
            warnings.append(f"{name}: {credential.name}: the certificate {when} at {iso(validity.expires)}: renew it")
    return warnings


class CertificateExpiryMonitor:
    """Warns in the log before certificates expire; implements `SupervisedComponent`.

    Args:
        config: Returns the current configuration.
        backends: Returns the running backends.
    """

    def __init__(self, config: Callable[[], Config], backends: Callable[[], list[RunningBackend]]) -> None:
        self._config = config
        self._backends = backends
        self._from_files: list[NamedCredential] = []
        self._reading: asyncio.Future[list[NamedCredential]] | None = None
        self._timed_out = False

    @property
    def found(self) -> list[NamedCredential]:
        """The certificates from the last read of the files, and the certificates that servers presented to checks."""
        return [*self._from_files, *server_credentials(self._backends())]

    async def run(self, ready: Callable[[], None]) -> None:
        """Read the certificate files periodically, and log new warnings, until this method is cancelled."""
        logged: set[str] = set()
        ready()
        while True:
            await self._refresh()
            current = set(expiry_warnings(self.found, time.time()))
            for warning in sorted(current - logged):
                log.warning(warning)
            logged = current
            await asyncio.sleep(_POLL_INTERVAL)

    async def _refresh(self) -> None:
        """Read the certificate files in a thread. Until a slow read has finished, keep the previous result."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, read_credentials, self._config())
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                self._from_files = await asyncio.shield(self._reading)
        except TimeoutError:
            if not self._timed_out:
                log.warning(
                    "reading the certificate files takes too long, so the known expiry times may be out of date:"
                    " check whether the file system hangs"
                )
            self._timed_out = True
        else:
            self._timed_out = False
