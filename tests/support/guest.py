"""Runs a virtual machine that has a kernel with an NFS client, because the host's kernel can lack one.

The guest runs Debian's cloud kernel with the required modules, an initramfs of busybox, and a script. The guest
shuts down when the script completes. The guest reaches this host's loopback as 10.0.2.2.
"""

import re
import subprocess
import threading
import time
from pathlib import Path

from gateway.demo.server_process import die_with_parent, find
from tests.support.guest_image import INIT, MODULES, PACKAGE, add_service, busybox_root, get_kernel, initramfs
from tests.support.requirements import need

HOST = "10.0.2.2"
_CPU = "max,-erms,-fsrm"
"""The emulated processor. With the features erms and fsrm, the kernel copies memory with the instruction `rep movsb`,
which QEMU emulates slowly."""
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
    """Skip the test, or fail it in CI, if this machine cannot run a virtual machine."""
    programs = ("qemu-system-x86_64", "busybox", "cpio", "depmod", "gcc")
    missing = [program for program in programs if find(program) is None]
    need(not missing, f"{', '.join(missing)} (packages qemu-system-x86 busybox-static cpio kmod gcc)")
    try:
        get_kernel()
    except (OSError, subprocess.SubprocessError) as error:
        need(condition=False, what=f"Debian's package {PACKAGE}: {error}")


class Guest:
    """A virtual machine that runs a shell script.

    Args:
        folder: The directory for the machine's files.
        script: A script for busybox's shell, with two additional commands. `lock FILE [STOP]` locks a file and prints
            LOCKED, or prints the error; with STOP, it keeps the lock and writes to the file until STOP exists.
            `scribble FILE STOP MICROSECONDS` writes and syncs blocks of 4 KiB with pauses, until STOP exists or a
            call fails. The number of a block determines its content; the command prints `AT NUMBER` after each block.
        memory: The memory of the machine, in MiB.
        programs: Programs of this host to copy into the machine, with their libraries.
        forwards: Forwarded ports. Each key is a port on this host's loopback; its value is a port of the machine.
        modules: Modules of the machine's kernel to load, in addition to the NFS modules.
        files: Files or directories of this host to copy into the machine, by their paths in the machine.
        disks: The images of the persistent disks /dev/vda, /dev/vdb and so on.
        root: The root directory of a Debian system, in which systemd runs the script as a service. None uses busybox.
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
        """The epoch time at which each line arrived, in seconds."""
        self._said = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True)
        kernel, tree = get_kernel()
        if root is None:
            root = busybox_root(folder, programs)
            (root / "init").write_text(INIT + _RUN)
        else:
            (root / "init").write_text(f"{INIT}exec /lib/systemd/systemd\n")
            add_service(root)
        for path, source in (files or {}).items():
            subprocess.run(["cp", "-a", str(source), str(root / path)], check=True, timeout=60)
        (root / "script").write_text(script)
        drives = [part for disk in disks for part in ("-drive", f"file={disk},if=virtio,format=raw")]
        modules = (*modules, "virtio_blk", "ext4") if disks else modules
        image = initramfs(folder, root, tree, (*MODULES, *modules))
        hosts = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in (forwards or {}).items())
        self._child = subprocess.Popen(
            ["qemu-system-x86_64", "-cpu", _CPU, "-m", str(memory), "-nographic", "-no-reboot", *drives,
             "-kernel", str(kernel), "-initrd", str(image), "-nic", f"user,model=virtio-net-pci{hosts}", "-append",
             "console=ttyS0 quiet panic=-1 oops=panic mitigations=off"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - it only calls prctl
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Guest":  # noqa: PYI034 - never subclassed
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.kill()
        self._child.wait(10)
        self._reader.join(10)
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with self._said:
                self.lines.append(line.decode(errors="replace").strip())
                self.times.append(time.time())
                self._said.notify_all()

    def wait_for(self, text: str, timeout: float = 180.0) -> str:
        """Wait for the first line with `text`; return this line. Fail if the machine stops without such a line."""
        deadline = time.monotonic() + timeout
        with self._said:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                ended = self._child.poll() is not None and not self._reader.is_alive()
                if ended or time.monotonic() > deadline:
                    raise AssertionError(f"the guest did not print {text!r}: " + " / ".join(self.lines[-25:]))
                self._said.wait(0.2)

    def said(self, pattern: str) -> list[str]:
        """Return the text of the pattern's first group from each line of output that matches."""
        return [match[1] for line in self.lines if (match := re.search(pattern, line))]


def mount(port: int, target: str = "/mnt", export: str = "/media", options: str = "") -> str:
    """Return the guest's command that mounts an export through a port of this host."""
    more = f",{options}" if options else ""
    options_of_mount = (
        f"vers=4.2,addr={HOST},clientaddr=10.0.2.15,port={port},proto=tcp,hard,timeo=600,retrans=5{more}"
    )
    return f"mount -i -t nfs4 -o {options_of_mount} {HOST}:{export} {target}"
