"""Runs a WireGuard peer with wireguard-go in a network namespace."""

import itertools
import os
import subprocess
import time
from pathlib import Path

from gateway.demo.server_process import ServerProcess
from tests.support.netns import BEHIND, NAMES, OUTER_FAR, inside, run

_COUNTER = itertools.count()


class WireGuardPeer:
    """A WireGuard peer in a network namespace, implemented by wireguard-go.

    Args:
        folder: The directory for the peer's files.
        port: The UDP port of the peer.
        network: The first three numbers of the IPv4 addresses in the VPN, such as `10.9.0`. The last number of the
            peer's address is 1, and the last number of the gateway's address is 2.
        namespace: The network namespace in which the peer runs.
    """

    def __init__(self, folder: Path, port: int = 51820, network: str = "10.9.0", namespace: str = NAMES[1]) -> None:
        folder.mkdir()
        self.namespace = namespace
        self.folder, self.port, self.network = folder, port, network
        # wireguard-go uses one directory for its sockets in all namespaces, so the name must be unique on this host.
        self.device = f"wgs{os.getpid()}n{next(_COUNTER)}"
        self.key, self.client_key = _wg_key(), _wg_key()
        self.process = ServerProcess(["/usr/bin/wireguard-go", "-f", self.device], folder / "log")

    def start(self) -> "WireGuardPeer":
        with inside(self.namespace):
            socket = Path(f"/var/run/wireguard/{self.device}.sock")
            socket.unlink(missing_ok=True)
            self.process.spawn()
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            config = self.folder / "peer.conf"
            config.write_text(
                f"[Interface]\nPrivateKey = {self.key}\nListenPort = {self.port}\n"
                f"[Peer]\nPublicKey = {_wg_public(self.client_key)}\n"
                f"AllowedIPs = {self.network}.2/32, fd09::2/128\n"
            )
            run(
                f"set -e; wg setconf {self.device} {config}; ip addr add {self.network}.1/24 dev {self.device};"
                f"ip addr add fd09::1/64 dev {self.device} nodad; ip link set {self.device} mtu 1420 up"
            )
        return self

    def stop(self) -> None:
        self.process.stop()

    def client(self, path: Path, *more: str, key: str | None = None, host: str = OUTER_FAR) -> Path:
        """Write a client's configuration file, and return its file path."""
        lines = "\n".join(more)
        path.write_text(
            f"[Interface]\nPrivateKey = {key or self.client_key}\nAddress = {self.network}.2/24, fd09::2/64\n"
            f"DNS = {BEHIND}, far.example\n{lines}\n"
            f"[Peer]\nPublicKey = {_wg_public(self.key)}\nEndpoint = {host}:{self.port}\n"
            "AllowedIPs = 0.0.0.0/0, ::/0\n"
        )
        path.chmod(0o600)
        return path


def _wg_key() -> str:
    return run("wg genkey").strip()


def _wg_public(key: str) -> str:
    return subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, check=True).stdout.strip()
