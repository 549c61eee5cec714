"""The certificates of a configuration: when they expire, and a warning before."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from gateway.app.running import Running
from gateway.certificates import authority, of_file
from gateway.config import Config
from gateway.contracts import Credential
from gateway.ops.answers import iso

log = logging.getLogger(__name__)

_EVERY = 5.0
"""Seconds between two looks at the files; some certificates live for minutes."""

Named = tuple[str, Credential]
"""The tunnel or backend, or `docker`, and a certificate that it depends on."""


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
        tls = config.docker.tls
        ours = [Credential("tls", str(tls.cert_file), each) for each in of_file(tls.cert_file)]
        found += [("docker", credential) for credential in (*authority(tls.ca_file), *ours)]
    return found


def shown(backends: list[Running]) -> Iterator[Named]:
    """The certificates that servers have shown to checks."""
    for running in backends:
        for check in running.checks:
            if check.finding.certificate is not None:
                yield running.spec.name, Credential("tls", str(check.target), check.finding.certificate)


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
                f"{name}: {credential.what}: the certificate {when} at {iso(validity.expires)}: renew it"
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

    @property
    def found(self) -> list[Named]:
        """The certificates, as last seen."""
        return [*self._read, *shown(self._backends())]

    async def run(self, ready: Callable[[], None]) -> None:
        """Look until cancelled."""
        warned: set[str] = set()
        ready()
        while True:
            self._read = await asyncio.to_thread(read, self._config())
            soon = set(warnings(self.found, time.time()))
            for sentence in sorted(soon - warned):
                log.warning(sentence)
            warned = soon
            await asyncio.sleep(_EVERY)
