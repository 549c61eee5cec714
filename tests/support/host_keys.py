"""Runs SSH servers with several host keys, and creates options of tunnels that trust some of these keys."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.demo.sshd import Bastion, make_key
from gateway.ssh.options import SshOptions
from tests.support.requirements import need_sshd
from tests.support.ssh_sessions import options


@contextlib.contextmanager
def sshd_with(folder: Path, *kinds: str, extra: str = "") -> Iterator[Bastion]:
    """Run an sshd with one host key of each given type, in this order. The client's known_hosts file is empty."""
    need_sshd()
    folder.mkdir()
    for kind in kinds:
        make_key(folder / kind, kind)
    lines = "".join(f"HostKey {folder}/{kind}\n" for kind in kinds)
    server = Bastion(folder, extra=lines + extra)
    config = folder / "sshd_config"
    config.write_text(config.read_text().replace(f"HostKey {folder}/host_key\n", ""))
    server.known_hosts.write_text("")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def public(server: Bastion, kind: str) -> str:
    return (server.folder / f"{kind}.pub").read_text().strip()


def trusting(server: Bastion, *pins: str, listed: str = "", **changes: Any) -> SshOptions:
    """Return the options of a tunnel that trusts the host keys `pins` and the known_hosts lines `listed`."""
    files: tuple[Path, ...] = ()
    if listed:
        path = server.folder / f"known_hosts.{abs(hash(listed))}"
        path.write_text(listed)
        files = (path,)
    return options(server, known_hosts=files, host_keys=pins, **changes)
