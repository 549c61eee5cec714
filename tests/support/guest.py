"""Runs virtual machines with User-Mode Linux (UML), a Linux kernel that runs as a process.

Tests need the NFS client of this kernel, because the host's kernel might not have an NFS client. A virtual machine
(guest) runs a script, and shuts down when the script completes. slirp4netns provides the network of the guest. In the
guest, the address 10.0.2.2 is 127.0.0.1 of this host.
See https://docs.kernel.org/virt/uml/user_mode_linux_howto_v2.html.
"""

import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

from gateway.demo.server_process import ServerProcess, die_with_parent, find
from tests.support.guest_image import INIT, MODULES, add_service, busybox_root, initramfs, register_library
from tests.support.requirements import need

HOST = "10.0.2.2"
_ADDRESS = "10.0.2.15"
_KERNEL = """echo NAMESPACE-READY
until ip link set tap0 up 2>/dev/null; do sleep 0.1; done  # slirp4netns creates the interface
ip link set lo up && ip -6 addr flush dev tap0
echo NETWORK-READY
library=$1
shift
LD_PRELOAD=$library linux.uml "$@" </dev/null
"""
"""The shell script that starts the UML kernel in separate namespaces. The first argument is the library that
`register_library` returns. The shell is the first process of the PID
namespace. When the shell ends, the host's kernel kills all processes of the guest."""
_RUN = """hostname guest
echo 7 > /proc/sys/kernel/printk_devkmsg 2>/dev/null
echo GUEST-STARTED
mkdir -p /mnt
. /script
echo GUEST-DONE
sync
poweroff -f
"""


def need_guest() -> None:
    """If this machine cannot run a guest, skip the test; in CI, fail the test."""
    programs = ("linux.uml", "slirp4netns", "busybox", "cpio", "modprobe", "gcc")
    missing = [program for program in programs if find(program) is None]
    need(not missing, f"{', '.join(missing)} (packages user-mode-linux slirp4netns busybox-static cpio kmod gcc)")
    need(os.geteuid() == 0, "root, to create namespaces")


class Guest:
    """A virtual machine that runs a shell script.

    In addition to busybox's commands, the script can use two commands:

    - `lock FILE [STOP]` locks FILE, and prints LOCKED or an error. With STOP, the command keeps the lock and writes
      to FILE until a file STOP exists.
    - `scribble FILE STOP MICROSECONDS` writes blocks of 4 KiB to FILE until a file STOP exists or an error occurs.
      After each block, the command calls fsync, prints `AT NUMBER` with the number of the block, and waits for
      MICROSECONDS. The number of a block determines the block's content.

    Args:
        folder: The directory for the guest's files.
        script: The shell script.
        memory: The memory of the guest, in MiB.
        programs: Programs of this host to copy into the guest, with their libraries.
        forwards: Forwarded ports. Each key is a port on this host's loopback; its value is a port of the guest.
        modules: Modules of the guest's kernel to load, in addition to the NFS modules.
        files: Files or directories of this host to copy into the guest, by their paths in the guest.
        disks: The images of the persistent disks /dev/ubda, /dev/ubdb and so on.
        root: The root directory of a Debian system whose systemd runs the script. None means a minimal system with
            busybox and `programs`.
    """

    def __init__(
        self,
        folder: Path,
        script: str,
        memory: int = 512,
        programs: tuple[str, ...] = (),
        forwards: dict[int, int] | None = None,
        modules: tuple[str, ...] = (),
        files: dict[str, Path] | None = None,
        root: Path | None = None,
        disks: tuple[Path, ...] = (),
    ) -> None:
        self.lines: list[str] = []
        self.times: list[float] = []
        """The time of arrival of each line in `lines`, in seconds since the epoch."""
        self._said = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True)
        if root is None:
            root = busybox_root(folder, programs)
            (root / "init").write_text(INIT + _RUN)
        else:
            (root / "init").write_text(f"{INIT}exec /lib/systemd/systemd\n")
            add_service(root)
        for path, source in (files or {}).items():
            subprocess.run(["cp", "-a", str(source), str(root / path)], check=True, timeout=60)
        (root / "script").write_text(script)
        image = initramfs(folder, root, (*MODULES, *modules))
        drives = [f"ubd{number}={disk}" for number, disk in enumerate(disks)]
        self._kernel = subprocess.Popen(
            ["unshare", "--net", "--mount-proc", "--pid", "--fork", "--kill-child", "sh", "-c", _KERNEL, "sh",
             str(register_library(folder)), f"mem={memory}M", f"initrd={image}", f"uml_dir={folder}", *drives,
             "con=null", "con0=null,fd:1", "vec0:transport=raw,ifname=tap0,depth=64",
             "quiet", "panic=-1", "oops=panic"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - this function only calls prctl
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        control, log = folder / "slirp.sock", folder / "slirp.log"
        self._network = ServerProcess(
            [
                "slirp4netns",
                "--netns-type=path",
                f"--api-socket={control}",
                f"/proc/{self._kernel.pid}/ns/net",
                "tap0",
            ],
            log,
        )
        try:
            self.wait_for("NAMESPACE-READY", 60)
            self._network.spawn()
            self.wait_for("NETWORK-READY", 60)
            for here, there in (forwards or {}).items():
                _forward(control, here, there)
        except BaseException as error:
            self.__exit__()
            if log.exists():
                error.add_note(log.read_text(errors="replace"))
            raise

    def __enter__(self) -> "Guest":  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *exc: object) -> None:
        self._kernel.kill()
        self._kernel.wait(10)
        self._network.stop()
        self._reader.join(10)
        if self._kernel.stdout is not None:
            self._kernel.stdout.close()

    def _read(self) -> None:
        assert self._kernel.stdout is not None
        for line in self._kernel.stdout:
            with self._said:
                self.lines.append(line.decode(errors="replace").strip())
                self.times.append(time.time())
                self._said.notify_all()

    def wait_for(self, text: str, timeout: float = 180.0) -> str:
        """Wait until an output line of the guest contains `text`, and return the line.

        Fail if the guest stops first, or after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._said:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                ended = self._kernel.poll() is not None and not self._reader.is_alive()
                if ended or time.monotonic() > deadline:
                    raise AssertionError(f"the guest did not print {text!r}: " + " / ".join(self.lines[-25:]))
                self._said.wait(0.2)

    def said(self, pattern: str) -> list[str]:
        """Search for `pattern` in each output line of the guest, and return the first group of each match."""
        return [match[1] for line in self.lines if (match := re.search(pattern, line))]


def _forward(control: Path, here: int, there: int) -> None:
    """Forward a TCP port on 127.0.0.1 of this host to the guest.

    Args:
        control: The path of the API socket of slirp4netns (slirp4netns(1), "API SOCKET").
        here: The port of this host.
        there: The port of the guest.
    """
    arguments = {
        "proto": "tcp", "host_addr": "127.0.0.1", "host_port": here, "guest_addr": _ADDRESS, "guest_port": there,
    }  # fmt: skip
    deadline = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            try:
                client.connect(str(control))
            except (FileNotFoundError, ConnectionRefusedError):  # slirp4netns does not listen on its socket yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            client.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
            client.shutdown(socket.SHUT_WR)
            response = json.loads(client.makefile().read())
        assert "error" not in response, response
        return


def mount(port: int, target: str = "/mnt", export: str = "/media", options: str = "") -> str:
    """Return a command that mounts an NFS export in the guest. `port` is the port of the NFS server on this host."""
    more = f",{options}" if options else ""
    options_of_mount = (
        f"vers=4.2,addr={HOST},clientaddr={_ADDRESS},port={port},proto=tcp,hard,timeo=600,retrans=5{more}"
    )
    return f"mount -i -t nfs4 -o {options_of_mount} {HOST}:{export} {target}"
