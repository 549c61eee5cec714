"""The certificates of a configuration: when they expire, and a warning before."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.app.running import Running
from gateway.certificates import ca_credentials, file_validities
from gateway.config import Config
from gateway.contracts import Credential
from gateway.ops.status_json import iso

log = logging.getLogger(__name__)

_EVERY = 5.0
"""Seconds between two looks at the files; some certificates live for minutes."""
_WITHIN = 30.0
"""Seconds for the files to be read, before the log says that they are not."""

Named = tuple[str, Credential]
"""The tunnel or backend, `docker` or `ops`, and a certificate that it depends on."""


def read(config: Config) -> list[Named]:
    """The certificates in the files of a configuration. It may block; what cannot be read is left out."""
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
        found += _own("docker", config.docker.tls.ca_file, config.docker.tls.cert_file)
    if config.ops.tls is not None:
        found += _own("ops", config.ops.tls.client_ca_file, config.ops.tls.cert_file)
    return found


def _own(name: str, ca_file: Path | None, cert_file: Path | None) -> list[Named]:
    ours = [Credential("tls", str(cert_file), each) for each in file_validities(cert_file)]
    return [(name, credential) for credential in (*ca_credentials(ca_file), *ours)]


def shown(backends: list[Running]) -> Iterator[Named]:
    """The certificates that servers have shown to checks."""
    for running in backends:
        for check in running.checks:
            if check.probe_result.certificate is not None:
                yield running.spec.name, Credential("tls", str(check.target), check.probe_result.certificate)


def warnings(found: list[Named], now: float) -> list[str]:
    """A sentence for each certificate that has expired or expires soon. Pure.

    Args:
        found: The certificates.
        now: `time.time()`.
    """
    sentences = []
    for name, credential in found:
        validity = credential.validity
        if validity.expires_soon(now):
            when = "has expired" if validity.expires <= now else "expires"
            sentences.append(
                f"{name}: {credential.name}: the certificate {when} at {iso(validity.expires)}: renew it"
            )
    return sentences


class Expiry:
    """Looks at the certificates, and warns in the log; a `gateway.contracts.Unit`.

    Args:
        config: Gives the configuration that runs.
        backends: Gives the backends that run.
    """

    def __init__(self, config: Callable[[], Config], backends: Callable[[], list[Running]]) -> None:
        self._config = config
        self._backends = backends
        self._read: list[Named] = []
        self._reading: asyncio.Future[list[Named]] | None = None
        self._hangs = False

    @property
    def found(self) -> list[Named]:
        """The certificates, as last seen."""
        return [*self._read, *shown(self._backends())]

    async def run(self, ready: Callable[[], None]) -> None:
        """Look until cancelled."""
        warned: set[str] = set()
        ready()
        while True:
            await self._look()
            soon = set(warnings(self.found, time.time()))
            for sentence in sorted(soon - warned):
                log.warning(sentence)
            warned = soon
            await asyncio.sleep(_EVERY)

    async def _look(self) -> None:
        """Read the files in a thread, of which there is one at most; where they hang, keep what was read before."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().run_in_executor(None, read, self._config())
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(_WITHIN):
                self._read = await asyncio.shield(self._reading)
        except TimeoutError:
            if not self._hangs:
                log.warning(
                    "the certificates' files are still being read, so their expiry may be out of date:"
                    " does their file system hang?"
                )
            self._hangs = True
        else:
            self._hangs = False
