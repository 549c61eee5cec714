"""Reloads the configuration, keys and certificates after their files have changed."""

import asyncio
import logging
from pathlib import Path

from gateway.app.reloader import Reloader
from gateway.app.running_components import RunningComponents
from gateway.config import TunnelSpec
from gateway.config.referenced_file_checks import files_of
from gateway.contracts.states import ConfigTrigger
from gateway.errors import GatewayError
from gateway.ops.server import OpsServer

log = logging.getLogger(__name__)


class FileChangeHandler:
    """Reloads changed files: the configuration, and the keys and certificates of tunnels and the ops server.

    Args:
        file: The configuration file; None if there is none.
        reloader: Reloads the configuration file.
        ops: The ops server, whose tokens, keys and certificates are reloaded.
        runtime: The running gateway, whose tunnels use the renewed keys and certificates.
    """

    def __init__(self, file: Path | None, reloader: Reloader, ops: OpsServer, runtime: RunningComponents) -> None:
        self._file = file
        self._reloader = reloader
        self._ops = ops
        self._runtime = runtime

    def watched(self) -> set[Path]:
        """Return the files to watch. Can block, because it reads the VPN configuration files of tunnels."""
        config = self._reloader.config
        found = set(self._ops.files)
        if config.gateway.reload_on_change:
            specs = config.tunnels.values()
            found |= {self._file} if self._file else set()
            found = found.union(*map(_files_of, specs), *(spec.kind.renewed(spec.options) for spec in specs))
        return found

    async def on_change(self, changed: set[Path]) -> None:
        """Reload the changed files: the configuration, keys or certificates.

        Errors are logged, not raised.
        """
        if self._ops.files & changed:
            try:
                await self._ops.renew()
            except GatewayError as error:
                log.error(
                    "cannot load the tokens or certificates of the ops server: the previous ones remain in use",
                    extra={"detail": str(error)},
                )
        if self._file in changed:
            await self._reloader.reload_quietly(ConfigTrigger.FILE)
        for name, spec in self._reloader.config.tunnels.items():
            renewed = spec.kind.renewed(spec.options)
            files = await asyncio.to_thread(_files_of, spec)
            if (files - renewed) & changed:
                self._runtime.renew(name)
            elif renewed & changed:
                self._runtime.retry(name)


def _files_of(spec: TunnelSpec) -> set[Path]:
    """Return the files that a tunnel uses, including the files that its VPN configuration file names. Can block."""
    return files_of(spec.options).union(spec.kind.files(spec.options))
