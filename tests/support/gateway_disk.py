"""Builds a disk image with the gateway and Python, for a container in a virtual machine."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.files import REPOSITORY, write_secret

_SIZE = "512M"


class GatewayDisk:
    """A disk image with the files of the gateway's container image, and additional files in `/config`.

    Args:
        folder: The directory in which this class creates the disk image.
        config: The content of each file in `/config`, by file name. Only root can read these files.
    """

    def __init__(self, folder: Path, config: dict[str, str]) -> None:
        self.image = folder / "image"
        environment, root = folder / "environment", folder / "root"
        self.python = str(environment / "bin/python3")
        """The path of the Python interpreter in a container that `docker run` starts with `options`."""
        venv.create(environment, symlinks=True)
        _install(Path(sysconfig.get_path("purelib", vars={"base": str(environment)})))
        make_root = [sys.executable, "tools/rootfs.py", str(root), str(environment)]
        subprocess.run(make_root, cwd=REPOSITORY, check=True, timeout=300)
        (root / "config").mkdir(mode=0o700)
        for name, text in config.items():
            write_secret(root / "config" / name, text)
        folders = [each.name for each in root.iterdir() if each.is_dir()]
        self._mounted = [name for name in folders if name not in ("etc", "run", "tmp", "var")]
        self._mounted += ["etc/passwd", "etc/ld.so.cache", str(environment.relative_to("/"))]
        # The disk is mounted read-only, so it needs no journal.
        make = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(self.image), _SIZE]
        subprocess.run(make, check=True, timeout=300)
        for used in (environment, root):
            shutil.rmtree(used)

    def options(self, disk: str) -> list[str]:
        """Return the options of `docker run` that mount directories and files of the disk in a container.

        Args:
            disk: The directory of the virtual machine at which the disk is mounted.
        """
        return [f"-v{disk}/{name}:/{name}:ro" for name in self._mounted]


def _install(packages: Path) -> None:
    """Copy the gateway and its required packages into the directory `packages`."""
    shutil.copytree(REPOSITORY / "gateway", packages / "gateway")
    installed = Path(sysconfig.get_path("purelib"))
    for each in {each.name: each for each in _required("gateway")}.values():
        for file in each.files or ():
            source = Path(str(file.locate())).resolve()
            if source.is_relative_to(installed):
                target = packages / source.relative_to(installed)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


def _required(name: str, extras: Iterable[str] = ()) -> Iterator[Distribution]:
    """Yield a package and, recursively, the packages that it requires."""
    found = distribution(name)
    yield found
    for text in found.requires or ():
        each = Requirement(text)
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield from _required(each.name, each.extras)
