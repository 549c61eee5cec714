"""Compare the speed of kernel NFS mounts through the gateway, through `ssh -L`, and without a tunnel.

Usage: sudo python bench/nfs_throughput.py [--rounds N] [--megabytes N]

The runs are interleaved; the results are medians. The client is the kernel of User-Mode Linux, with a network
in user space (slirp4netns); the speed of this network limits all results. The NFS server is Ganesha and the
bastion is OpenSSH, both on this host's loopback interface. ssh and the gateway use the same cipher. In the
column `near`, the gateway uses no tunnel; in the column `straight`, the guest mounts the export without a
gateway.
"""

import argparse
import statistics
import sys
import tempfile
from operator import truediv
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from gateway.demo.server_process import ServerProcess, free_port
from gateway.ssh.algorithms import CIPHERS
from tests.soak.mounts import NfsSite
from tests.support.gateway_process import Gateway
from tests.support.guest import Guest, mount

PAIRS = (("gateway", "ssh"), ("near", "straight"))
SCRIPT = """
mb() { awk -v bytes=$1 -v from=$2 -v to=$3 'BEGIN { printf "%.1f", bytes / 1e6 / (to - from) }'; }
now() { cut -d" " -f1 /proc/uptime; }
"""


def step(label: str, mounted: str, megabytes: int) -> str:
    """Return a script that writes a file, and then reads it.

    The read uses a new mount, because the kernel's cache would contain the written file otherwise.
    """
    size = megabytes << 20
    return f"""
{mounted}
a=$(now); dd if=/dev/zero of=/mnt/{label} bs=1M count={megabytes} conv=fsync 2>/dev/null; b=$(now)
echo "MB/s {label} write $(mb {size} $a $b)"; umount /mnt
{mounted}
a=$(now); dd if=/mnt/{label} of=/dev/null bs=1M 2>/dev/null; b=$(now)
echo "MB/s {label} read $(mb {size} $a $b)"; umount /mnt
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, NfsSite(Path(scratch, "site")) as site:
        Path(scratch).chmod(0o755)
        site.bastion.start()
        site.gateway.wait_up("media")
        local = free_port()
        ssh = ServerProcess(
            ["ssh", "-N", "-c", CIPHERS[0], "-i", str(site.bastion.client_key),
             "-o", f"UserKnownHostsFile={site.bastion.known_hosts}", "-p", str(site.bastion.port),
             "-L", f"127.0.0.1:{local}:127.0.0.1:{site.server.port}",
             f"{site.bastion.user}@127.0.0.1"],
            Path(scratch, "ssh.log"),
        )  # fmt: skip
        ssh.start(local)
        near_folder, near_port = Path(scratch, "near"), free_port()
        near_folder.mkdir()
        near = Gateway(near_folder)
        near.write(f"""
            backends:
              media:
                kind: nfs
                targets: ["127.0.0.1:{site.server.port}"]
                export: /media
                listen: 127.0.0.1:{near_port}
                allow_unprivileged_ports: true
        """)
        try:
            near.start().wait_up("media")
            mounts = {"gateway": site.port, "ssh": local, "near": near_port, "straight": site.server.port}
            steps = [step(label, mount(port), options.megabytes) for label, port in mounts.items()] * options.rounds
            script = SCRIPT + "".join(steps)
            with Guest(Path(scratch, "guest"), script, memory=1024) as guest:
                guest.wait_for("GUEST-DONE", 60 + 60 * options.rounds)
                said = [line.split() for line in guest.said(r"MB/s (.*)")]
        finally:
            near.stop()
            ssh.stop()
    names = "".join(f"{name:>14}" for name in (*mounts, "gateway/ssh", "near/straight"))
    print(f"{'':8}{names}   MB/s, medians of {options.rounds}")
    for what in ("write", "read"):
        by_mount = {
            label: [float(rate) for name, kind, rate in said if (name, kind) == (label, what)] for label in mounts
        }
        medians = {label: statistics.median(rates) for label, rates in by_mount.items()}
        medians |= {
            f"{one}/{other}": statistics.median(map(truediv, by_mount[one], by_mount[other])) for one, other in PAIRS
        }
        print(f"{what:8}" + "".join(f"{median:14.2f}" for median in medians.values()))


if __name__ == "__main__":
    main()
