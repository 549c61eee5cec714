"""Runs NFS-Ganesha, an NFSv4 server in user space, which requires root."""

import os
import signal
from pathlib import Path

from gateway.demo.server_process import ServerProcess, find, free_port

_CONFIG = """\
NFS_CORE_PARAM {{
    allow_set_io_flusher_fail = true; NFS_Port = {port}; Bind_addr = 127.0.0.1; Protocols = 4;
    Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSv4 {{
    Graceless = true; Minor_Versions = {minor_versions}; RecoveryBackend = fs; RecoveryRoot = "{folder}/recovery";
}}
EXPORT {{
    Export_Id = 1; Path = {export}; Pseudo = {pseudo}; Access_Type = {access}; Squash = None; Protocols = 4;
    SecType = sys; FSAL {{ Name = VFS; }}
}}
"""


def available() -> bool:
    """Return whether NFS-Ganesha is installed and this process is root."""
    return os.geteuid() == 0 and find("ganesha.nfsd") is not None


class NfsServer:
    """An NFS server with one export, on a free port of 127.0.0.1.

    Args:
        folder: The folder for the server's files.
        export: The directory to export; None to create one inside `folder`.
        access: `RW` or `RO`.
        minor_versions: The minor versions of NFSv4 that the server supports.
    """

    pseudo = "/media"

    def __init__(
        self, folder: Path, export: Path | None = None, access: str = "RW", minor_versions: str = "0,1,2"
    ) -> None:
        self.port = free_port()
        self.export = export or folder / "export"
        (folder / "recovery").mkdir(parents=True, exist_ok=True)
        self.export.mkdir(parents=True, exist_ok=True)
        config = folder / "ganesha.conf"
        config.write_text(
            _CONFIG.format(
                port=self.port,
                folder=folder,
                export=self.export,
                pseudo=self.pseudo,
                access=access,
                minor_versions=minor_versions,
            )
        )
        self._process = ServerProcess(
            [find("ganesha.nfsd") or "ganesha.nfsd", "-F", "-f", str(config), "-L", str(folder / "ganesha.log"),
             "-p", str(folder / "pid")],
            folder / "log",
            # Disable libblkid's cache, which can contain the UUID of an earlier file system on the same loop device.
            environment={"BLKID_FILE": os.devnull},
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process ID of the server."""
        return self._process.pid

    def start(self) -> "NfsServer":
        """Start the server."""
        self._process.start(self.port)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server with a signal."""
        self._process.stop(number, timeout=5)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server."""
        self._process.send(number)
