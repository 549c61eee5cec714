"""A virtual machine with its own kernel that mounts NFS: the host's kernel may have no NFS client.

Debian's cloud kernel, an initramfs of busybox and the modules that are wanted, and a script, with which it ends. The
guest reaches this host's loopback as 10.0.2.2.
"""

import lzma
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from conftest import download, need

from gateway.demo.process import find

HOST = "10.0.2.2"
_PACKAGE = "linux-image-cloud-amd64"
_CACHE = Path(tempfile.gettempdir()) / f"gateway-guest-{os.getuid()}"
_MODULES = ("virtio_pci", "virtio_net", "nfsv4", "nfs_layout_nfsv41_files")
_LOCK = """
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct flock whole = {.l_type = F_WRLCK};
    int fd = open(argv[1], O_RDWR);
    if (fd < 0 || fcntl(fd, F_SETLK, &whole) < 0) { perror("lock"); return 1; }
    puts("LOCKED");
    fflush(stdout);
    while (argc > 2 && access(argv[2], F_OK)) {
        if (pwrite(fd, "held", 4, 0) != 4 || fsync(fd)) { perror("IO-ERROR"); return 1; }
        usleep(100000);
    }
    return close(fd);
}
"""
_SCRIBBLE = """
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    uint64_t block[512];
    int fd = open(argv[1], O_WRONLY | O_CREAT, 0644);
    for (uint64_t number = 0; number % 16 || access(argv[2], F_OK); number++) {
        for (uint64_t word = 0; word < 512; word++)
            block[word] = (number * 512 + word) * 0x9E3779B97F4A7C15u;
        if (pwrite(fd, block, sizeof block, number * sizeof block) != sizeof block || fsync(fd)) {
            perror("IO-ERROR");
            return 1;
        }
        printf("AT %lu\\n", number);
        fflush(stdout);
        usleep(atoi(argv[3]));
    }
    return close(fd);
}
"""
_TOOLS = {"lock": _LOCK, "scribble": _SCRIBBLE}
_INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null
for module in $(cat /modules.list); do insmod $module; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
"""
_RUN = """hostname guest
echo 7 > /proc/sys/kernel/printk_devkmsg 2>/dev/null
echo GUEST-STARTED
mkdir -p /mnt
. /script
echo GUEST-DONE
sync
poweroff -f
"""
_SERVICE = """[Service]
Type=oneshot
ExecStart=/bin/sh -c "echo GUEST-STARTED; . /script; echo GUEST-DONE; systemctl poweroff -ff"
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=infinity
"""


def need_guest() -> None:
    """Skip, or fail in CI, if none can run."""
    programs = ("qemu-system-x86_64", "busybox", "cpio", "depmod", "gcc")
    missing = [program for program in programs if find(program) is None]
    need(not missing, f"{', '.join(missing)} (packages qemu-system-x86 busybox-static cpio kmod gcc)")
    try:
        _kernel()
    except (OSError, subprocess.SubprocessError) as error:
        need(condition=False, what=f"Debian's package {_PACKAGE}: {error}")


class Guest:
    """A machine that runs a shell script.

    Args:
        folder: Where its files go.
        script: What it does, in busybox's shell; `lock FILE [STOP]` locks a file and says LOCKED, or why
            it cannot, and with STOP holds it and writes to it until STOP exists; `scribble FILE STOP
            MICROSECONDS` writes and syncs 4 KiB after 4 KiB, whose content follows from their number, with pauses,
            and says `AT NUMBER` after each, until STOP exists or something fails.
        memory: In MiB.
        programs: Of this host, that it has too, with their libraries.
        forwards: Ports of this host's loopback that lead to ports of its own.
        modules: Of its kernel, beside those for NFS.
        files: More that it has, by their paths there: files or folders of this host.
        root: A Debian with systemd, which it boots, and the script is a service; None: nothing but busybox.
        disk: The image of a disk, /dev/vda, which outlives the machine; None: it has none.
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
        disk: Path | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.times: list[float] = []
        """When each line arrived, as `time.time()`."""
        self._said = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True)
        kernel, tree = _kernel()
        if root is None:
            root = _busybox_root(folder, programs)
            (root / "init").write_text(_INIT + _RUN)
        else:
            (root / "init").write_text(f"{_INIT}exec /lib/systemd/systemd\n")
            _add_service(root)
        for path, source in (files or {}).items():
            subprocess.run(["cp", "-a", str(source), str(root / path)], check=True, timeout=60)
        (root / "script").write_text(script)
        drive = ["-drive", f"file={disk},if=virtio,format=raw"] if disk is not None else []
        modules = (*modules, "virtio_blk", "ext4") if disk is not None else modules
        image = _initramfs(folder, root, tree, (*_MODULES, *modules))
        ways = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in (forwards or {}).items())
        self._child = subprocess.Popen(
            ["qemu-system-x86_64", "-cpu", "max", "-m", str(memory), "-nographic", "-no-reboot", *drive,
             "-kernel", str(kernel), "-initrd", str(image), "-nic", f"user,model=virtio-net-pci{ways}", "-append",
             "console=ttyS0 quiet panic=-1 oops=panic"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
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

    def wait_for(self, text: str, timeout: float = 60.0) -> str:
        """Return the first line that contains `text`; fail if the machine ends without it."""
        deadline = time.monotonic() + timeout
        with self._said:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                ended = self._child.poll() is not None and not self._reader.is_alive()
                if ended or time.monotonic() > deadline:
                    raise AssertionError(f"the guest did not say {text!r}: " + " / ".join(self.lines[-25:]))
                self._said.wait(0.2)

    def said(self, pattern: str) -> list[str]:
        """Return the first group of each line that matches."""
        return [match[1] for line in self.lines if (match := re.search(pattern, line))]


def mount(port: int, target: str = "/mnt", export: str = "/media", options: str = "") -> str:
    """Return the command that mounts an export through a port of this host."""
    more = f",{options}" if options else ""
    told = f"vers=4.2,addr={HOST},clientaddr=10.0.2.15,port={port},proto=tcp,hard,timeo=600,retrans=5{more}"
    return f"mount -i -t nfs4 -o {told} {HOST}:{export} {target}"


def _kernel() -> tuple[Path, Path]:
    """The kernel and the folder of its modules, downloaded once."""
    unpacked = _CACHE / "unpacked"
    if not unpacked.exists():
        _CACHE.mkdir(mode=0o700, exist_ok=True)
        depends = subprocess.run(
            ["apt-cache", "depends", _PACKAGE], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        match = re.search(r"Depends: (linux-image-\S+)", depends)
        if match is None:
            raise OSError(f"apt-cache does not know {_PACKAGE}")
        download("apt-get", "download", "-q", "-o", "Acquire::Retries=3", match[1], cwd=_CACHE)
        package = next(_CACHE.glob("linux-image-*.deb"))
        making = _CACHE / "making"
        shutil.rmtree(making, ignore_errors=True)
        subprocess.run(["dpkg", "-x", str(package), str(making)], check=True, timeout=120)
        root = making / "usr" if (making / "usr/lib/modules").exists() else making
        version = next((root / "lib/modules").iterdir()).name
        subprocess.run(["depmod", "-b", str(root), version], check=True, timeout=120)
        making.rename(unpacked)
    kernel = next((unpacked / "boot").glob("vmlinuz-*"))
    root = unpacked / "usr" if (unpacked / "usr/lib/modules").exists() else unpacked
    return kernel, root


def _copy_program(name: str, root: Path) -> None:
    path = find(name)
    assert path is not None, name
    linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False, timeout=10).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(library).resolve(), root / library.lstrip("/"))
    shutil.copy(path, root / "bin" / name)


def _busybox_root(folder: Path, programs: tuple[str, ...]) -> Path:
    root = folder / "initramfs"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("proc", "sys", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    busybox = root / "bin/busybox"
    shutil.copy(find("busybox") or "", busybox)
    applets = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True, timeout=10).stdout
    for applet in applets.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin").symlink_to("bin")
    for program in programs:
        _copy_program(program, root)
    for name, text in _TOOLS.items():
        source = folder / f"{name}.c"
        source.write_text(text)
        subprocess.run(["gcc", "-static", "-o", str(root / "bin" / name), str(source)], check=True, timeout=60)
    return root


def _add_service(root: Path) -> None:
    units = root / "etc/systemd/system"
    (units / "script.service").write_text(_SERVICE)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/script.service").symlink_to("../script.service")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")


def _initramfs(folder: Path, root: Path, tree: Path, modules: tuple[str, ...]) -> Path:
    """Add the kernel's modules, and pack."""
    (root / "modules").mkdir()
    listed: list[str] = []
    version = next((tree / "lib/modules").iterdir()).name
    for module in modules:
        shown = subprocess.run(
            ["modprobe", "-d", str(tree), "-S", version, "--show-depends", module],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
        for path in re.findall(r"^insmod (\S+)", shown, re.MULTILINE):
            name = Path(path).name.removesuffix(".xz")
            if name not in listed:
                listed.append(name)
                data = Path(path).read_bytes()
                (root / "modules" / name).write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    (root / "modules.list").write_text("\n".join(f"/modules/{name}" for name in listed))
    (root / "init").chmod(0o755)
    image = folder / "initramfs.cpio"
    find_all = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True, timeout=30).stdout
    with image.open("wb") as packed:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=find_all, stdout=packed, check=True, timeout=60
        )
    return image
