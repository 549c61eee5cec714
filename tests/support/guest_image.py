"""Builds the root file system of the virtual machine that `tests.support.guest` runs."""

import re
import shutil
import subprocess
from pathlib import Path

from gateway.demo.server_process import find

MODULES = ("nfsv4", "nfs_layout_nfsv41_files")


_KERNEL_MODULES = Path("/usr/lib/uml/modules")


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


INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null
for module in $(cat /modules.list); do insmod $module; done
ip link set lo up; ip link set vec0 up; ip addr add 10.0.2.15/24 dev vec0; ip route add default via 10.0.2.2
"""


_SERVICE = """[Service]
Type=oneshot
ExecStart=/bin/sh -c "echo GUEST-STARTED; . /script; echo GUEST-DONE; systemctl poweroff -ff"
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=infinity
"""


def _copy_program(name: str, root: Path) -> None:
    path = find(name)
    assert path is not None, name
    linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False, timeout=10).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(library).resolve(), root / library.lstrip("/"))
    shutil.copy(path, root / "bin" / name)


def busybox_root(folder: Path, programs: tuple[str, ...]) -> Path:
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


def register_library(folder: Path) -> Path:
    """Compile the library that UML needs on some processors (see `uml_registers.c`), and return its path."""
    library = folder / "uml_registers.so"
    source = Path(__file__).with_name("uml_registers.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    return library


def add_service(root: Path) -> None:
    units = root / "etc/systemd/system"
    (units / "script.service").write_text(_SERVICE)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/script.service").symlink_to("../script.service")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")


def initramfs(folder: Path, root: Path, modules: tuple[str, ...]) -> Path:
    """Copy kernel modules into the directory `root`, and create an initramfs from this directory."""
    (root / "modules").mkdir()
    (folder / "lib").mkdir()
    (folder / "lib/modules").symlink_to(_KERNEL_MODULES)  # modprobe searches for modules in lib/modules
    version = next(_KERNEL_MODULES.iterdir()).name
    listed: list[str] = []
    for module in modules:
        shown = subprocess.run(
            ["modprobe", "-d", str(folder), "-S", version, "--show-depends", module],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
        for path in re.findall(r"^insmod (\S+)", shown, re.MULTILINE):
            if (name := Path(path).name) not in listed:
                listed.append(name)
                shutil.copy(path, root / "modules")
    (root / "modules.list").write_text("\n".join(f"/modules/{name}" for name in listed))
    (root / "init").chmod(0o755)
    image = folder / "initramfs.cpio"
    find_all = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True, timeout=30).stdout
    with image.open("wb") as packed:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=find_all, stdout=packed, check=True, timeout=60
        )
    return image
