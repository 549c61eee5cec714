"""Tests kernel NFS mounts through the gateway while the tunnel goes down and up. Requires root and User-Mode Linux.

The test `outages` stops the bastion repeatedly while a virtual machine writes and syncs blocks of 4 KiB. The test
measures the time from the reconnect of the tunnel until the next block is on the server's disk. The test `race` boots
virtual machines that mount the export before the tunnel is up.
"""

import argparse
import random
import statistics
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.soak.chaos_site import missing
from tests.support.clients import touch_nfs
from tests.support.configs import write_nfs
from tests.support.files import scratch
from tests.support.gateway_process import Gateway
from tests.support.guest import Guest, mount

_BLOCK = 512
_FACTOR, _WORD = 0x9E3779B97F4A7C15, 1 << 64
_BOOT, _PATIENCE = 120.0, 60.0
_SOON = 0.25
"""Limit in seconds for the median of `Outages.resumed`."""


class NfsSite:
    """An NFS server, a bastion through which the gateway reaches the NFS server, and the gateway.

    Args:
        folder: The directory for the files of the servers and the gateway.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.bastion = Bastion(folder / "bastion")
        self.server = NfsServer(folder / "nfs")
        self.server.export.chmod(0o777)
        self.gateway = Gateway(folder)
        self.port = free_port()
        write_nfs(self.gateway, self.bastion, self.server, self.port)

    def __enter__(self) -> "NfsSite":  # noqa: PYI034 - never subclassed
        self.server.start()
        self.gateway.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.gateway.stop()
        self.server.stop()
        self.bastion.stop()

    def up_since(self) -> float | None:
        """Return the epoch time when the tunnel came up; None if the tunnel is down."""
        tunnel = self.gateway.tunnel("bastion")
        return datetime.fromisoformat(tunnel["since"]).timestamp() if tunnel["state"] == "up" else None


@dataclass(frozen=True)
class Outages:
    """The results of all outages.

    Args:
        resumed: For each outage, the seconds from the reconnect of the tunnel until the virtual machine reports that
            the next block is on the server's disk.
        blocks: Number of blocks that the virtual machine wrote.
        wrong: Number of these blocks whose content on the server is wrong.
        errors: The errors that the kernel of the virtual machine returned to the program that wrote the blocks.
    """

    resumed: list[float]
    blocks: int
    wrong: int
    errors: list[str]


def outages(folder: Path, count: int, longest: float = 4.0, seed: int = 1) -> Outages:
    """Stop the bastion `count` times while a virtual machine writes blocks to the export.

    Each outage takes between 0.5 s and `longest` seconds.
    """
    chance = random.Random(seed)
    resumed: list[float] = []
    script = "%s && echo MOUNTED && scribble /mnt/blocks /mnt/enough 10000; umount /mnt && echo UNMOUNTED\n"
    with NfsSite(folder) as site:
        site.bastion.start()
        site.gateway.wait_up("media")
        with Guest(folder / "guest", script % mount(site.port, options="lookupcache=positive")) as guest:
            guest.wait_for("AT 20", _BOOT)
            for _ in range(count):
                site.bastion.crash()
                site.gateway.wait(lambda: site.up_since() is None, _PATIENCE)
                time.sleep(chance.uniform(0.5, longest))
                site.bastion.start()
                site.gateway.wait(lambda: site.up_since() is not None, _PATIENCE)
                back = site.up_since()
                assert back is not None
                resumed.append(_next_block(guest, back) - back)
                time.sleep(0.5)
            touch_nfs(site.server.port, f"{site.server.pseudo}/enough")
            guest.wait_for("UNMOUNTED", _PATIENCE)
            errors = guest.said(r"(IO-ERROR.*)")
            blocks = len(guest.said(r"AT (\d+)"))
        data = (site.server.export / "blocks").read_bytes()
    wrong = sum(data[number * 4096 : (number + 1) * 4096] != _content(number) for number in range(blocks))
    return Outages(resumed, blocks, wrong, errors)


def _next_block(guest: Guest, after: float) -> float:
    """Wait until the virtual machine reports a written block later than the epoch time `after`.

    Returns:
        The epoch time of the report.
    """
    deadline = time.time() + _PATIENCE
    while time.time() < deadline:
        found = [
            at for line, at in zip(guest.lines, guest.times, strict=False) if at > after and line.startswith("AT ")
        ]
        if found:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"nothing was written within {_PATIENCE} s: {guest.lines[-5:]}")


def _content(number: int) -> bytes:
    words = range(number * _BLOCK, (number + 1) * _BLOCK)
    return struct.pack(f"<{_BLOCK}Q", *(word * _FACTOR % _WORD for word in words))


def race(folder: Path, delays: list[float], at_once: int = 4) -> list[float]:
    """Boot one virtual machine for each delay. Each virtual machine mounts the export before the tunnel is up.

    Args:
        folder: The directory for the files of all virtual machines.
        delays: For each virtual machine, the seconds from the start of the mount to the start of the bastion.
        at_once: The maximum number of virtual machines that run at the same time.

    Returns:
        For each virtual machine, the seconds from when the tunnel came up until the machine read its first file.
    """
    with ThreadPoolExecutor(at_once) as threads:
        tasks = [threads.submit(_race, folder / str(number), delay) for number, delay in enumerate(delays)]
        return [task.result() for task in tasks]


def _race(folder: Path, delay: float) -> float:
    with NfsSite(folder) as site:
        (site.server.export / "hello").write_text("hello over NFS\n")
        script = f"hostname {folder.name}; {mount(site.port)} && cat /mnt/hello\n"
        with Guest(folder / "guest", script) as guest:
            site.gateway.wait(lambda: site.gateway.backend("media")["connections"]["active"] >= 1, _BOOT)
            time.sleep(delay)
            site.bastion.start()
            site.gateway.wait(lambda: site.up_since() is not None, _PATIENCE)
            back = site.up_since()
            assert back is not None
            guest.wait_for("hello over NFS", _PATIENCE)
            read = next(at for line, at in zip(guest.lines, guest.times, strict=False) if "hello over" in line)
            return read - back


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--outages", type=int, default=40, metavar="N")
    parser.add_argument("--races", type=int, default=20, metavar="N")
    parser.add_argument("--longest", type=float, default=100.0, help="seconds from a mount's begin to its tunnel")
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"this machine lacks {lacking}", file=sys.stderr)
        return 2
    failed = 0
    with scratch() as folder:
        if options.outages:
            found = outages(folder / "outages", options.outages)
            failed += found.wrong + len(found.errors) + (statistics.median(found.resumed) > _SOON)
            print(
                f"{len(found.resumed)} outages: {found.blocks} blocks written, {found.wrong} wrong, "
                f"{len(found.errors)} errors; written again after the tunnel's return: {_spread(found.resumed)}"
            )
        if options.races:
            delays = [options.longest * (number + 1) / options.races for number in range(options.races)]
            read = race(folder / "races", delays)
            print(
                f"{len(read)} of {options.races} mounts that began up to {options.longest:g} s before their tunnel "
                f"succeeded without intervention; read after the tunnel's return: {_spread(read)}"
            )
    return 1 if failed else 0


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return (
        f"median {1000 * statistics.median(ordered):.0f} ms, {1000 * ordered[0]:.0f} to {1000 * ordered[-1]:.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
