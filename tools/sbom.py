"""Complete an image's SBOM: interpreter, Debian packages, contents of wheels, and the component of each file.

Usage: python tools/sbom.py ROOT PACKAGES [--with-files]

ROOT is the directory of the image's files. PACKAGES is the output of `cyclonedx-py environment` for the packages
in ROOT/opt/gateway. The result is ROOT/opt/gateway/sbom.cdx.json, in CycloneDX format.

Without `--with-files`, the SBOM contains all installed Debian packages. With `--with-files`, it contains only the
Debian packages that have files in ROOT, and lists the files of each component.

Runs in the image build, with the packages of requirements-build.lock. Fails if a file belongs to no component.
"""

import csv
import hashlib
import json
import platform
import re
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

_TARGET = "opt/gateway/sbom.cdx.json"
_FIELDS = (
    "${db:Status-Status}\t${binary:Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\n"
)
_GENERATED = {"/etc/ssl/certs/ca-certificates.crt": "ca-certificates"}
"""Files that Debian packages create during installation."""
_KEPT = ("type", "name", "version", "purl", "cpe", "licenses", "hashes")
"""If a wheel declares a component, the SBOM keeps these fields of the component."""
Component = dict[str, Any]


class ComponentFinder:
    """Determines the component that each file of the image belongs to.

    Args:
        root: Directory of the image's files.
        bom: The SBOM of the Python packages. The caller completes it.
    """

    def __init__(self, root: Path, bom: dict[str, Any]) -> None:
        self._root = root
        self._found: dict[str, Component] = {}
        self._debian = {each["name"]: each for each in map(dict, self._packages())}
        self._python: Component = {}
        named = {_normal(each["name"]): each for each in bom["components"]}
        self._gateway: Component = named["gateway"]
        for info in sorted(root.glob("opt/gateway/lib/python*/site-packages/*.dist-info")):
            component = named[_normal(info.name.split("-")[0])]
            self._take_wheel(info, component)

    def _packages(self) -> Iterator[Component]:
        release = platform.freedesktop_os_release()
        distribution = f"{release['ID']}-{release.get('VERSION_ID', '')}".rstrip("-")
        for line in _said("dpkg-query", "--show", f"--showformat={_FIELDS}").splitlines():
            status, name, version, architecture, source, source_version = line.split("\t")
            if status != "installed":
                continue
            short = name.partition(":")[0]
            qualifiers = {"arch": architecture, "distro": distribution}
            if (source, source_version) != (short, version):
                qualifiers["upstream"] = f"{source}@{source_version}"
            purl = PackageURL("deb", release["ID"], short, version, qualifiers).to_string()
            component = {"type": "library", "bom-ref": purl, "name": short, "version": version, "purl": purl}
            for path in Path(f"/var/lib/dpkg/info/{name}.list").read_text().splitlines():
                there = Path(path)
                self._found[str(there.parent.resolve() / there.name)] = component
            yield component

    def _take_wheel(self, info: Path, component: Component) -> None:
        with (info / "RECORD").open(newline="") as record:
            files = [(info.parent / row[0]).resolve() for row in csv.reader(record)]
        for path in files:
            self._found[f"/{path.relative_to(self._root.resolve())}"] = component
        inner = [*_of_boms(info), *_bundled(files)]
        for each in inner:
            each["bom-ref"] = f"{component['bom-ref']}#{each.get('purl', each['name'])}"
        unique = {each["bom-ref"]: each for each in inner}
        if unique:
            component["components"] = [unique[key] for key in sorted(unique)]

    def all_debian(self) -> Iterator[Component]:
        """Yield the components of all installed Debian packages."""
        yield from self._debian.values()

    def of(self, path: Path) -> Component:
        """Return the component of a file in the image; exit if the file belongs to none."""
        name = f"/{path.relative_to(self._root)}"
        if "/__pycache__/" in name:
            name = re.sub(r"__pycache__/([^/]+?)\.[^/]*$", r"\1.py", name)
        if name in _GENERATED:
            return self._debian[_GENERATED[name]]
        if name in self._found:
            return self._found[name]
        if name.startswith((f"{sysconfig.get_path('stdlib')}/", "/usr/local/bin/python", "/usr/local/lib/libpython")):
            return self._interpreter()
        if name.startswith(("/opt/gateway/", "/etc/")) and "/site-packages/" not in name:
            return self._gateway  # The image build creates these files.
        if path.is_symlink() and path.parent == self._root:
            return self._debian["base-files"]  # Debian's base-files creates links such as /lib.
        raise SystemExit(f"{name} belongs to no component of the SBOM")

    def _interpreter(self) -> Component:
        """Return the component of an interpreter that is not a Debian package, as in the official image of Python."""
        if not self._python:
            version = platform.python_version()
            purl = PackageURL("generic", None, "python", version).to_string()
            self._python |= {
                "type": "application", "bom-ref": purl, "name": "python", "version": version, "purl": purl,
                "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
            }  # fmt: skip
        return self._python


def _of_boms(info: Path) -> Iterator[Component]:
    """Return the components that a wheel declares (PEP 770)."""
    for path in sorted(info.glob("sboms/*.json")):
        bom = json.loads(path.read_text())
        itself = _normal(info.name.split("-")[0])
        for each in bom.get("components", ()):
            if _normal(each["name"]) != itself:
                yield {key: each[key] for key in _KEPT if key in each}


def _bundled(files: Iterable[Path]) -> Iterator[Component]:
    """Return the shared libraries bundled in a wheel; their versions are unknown."""
    for path in files:
        if path.parent.name.endswith(".libs"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield {"type": "file", "name": path.name, "hashes": [{"alg": "SHA-256", "content": digest}]}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - fixed program


def main(root: Path, packages: Path, *, with_files: bool) -> None:
    """Complete the SBOM and write it.

    Raises:
        SystemExit: A file belongs to no component, or the result is not valid CycloneDX.
    """
    bom = json.loads(packages.read_text())
    target = root / _TARGET
    target.touch()
    owners = ComponentFinder(root, bom)
    if with_files:
        files: dict[str, list[str]] = defaultdict(list)
        used: dict[str, Component] = {each["bom-ref"]: each for each in bom["components"]}
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.is_dir():
                component = owners.of(path)
                used[component["bom-ref"]] = component
                files[component["bom-ref"]].append(f"/{path.relative_to(root)}")
        for reference, paths in files.items():
            used[reference]["evidence"] = {"occurrences": [{"location": path} for path in paths]}
        bom["components"] = [used[key] for key in sorted(used)]
    else:
        bom["components"] += owners.all_debian()
    text = json.dumps(bom, separators=(",", ":"))
    error = JsonStrictValidator(SchemaVersion.from_version(bom["specVersion"])).validate_str(text)
    if error is not None:
        raise SystemExit(f"the SBOM is not CycloneDX {bom['specVersion']}: {error}")
    target.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), with_files="--with-files" in sys.argv[3:])
