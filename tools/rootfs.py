"""Copy everything that a Python environment needs at run time to a root file system, for an image from scratch.

Usage: python3 tools/rootfs.py ROOT ENVIRONMENT

Copies the interpreter, the standard library, the environment, and the shared libraries that they need. Also copies
the CA certificates, and creates the users. Runs in the image build, and uses only the standard library.
"""

import ast
import importlib.util
import marshal
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_UNUSED = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "site-packages",
    "dist-packages", "__pycache__", "venv", "config", "turtle.py", "dbm", "shelve.py", "curses",
}  # fmt: skip
"""Parts of the standard library that the gateway does not import."""
_UNUSED_PREFIXES = ("config-", "_test", "libpython", "_dbm", "_gdbm", "_curses")
"""Parts whose names start with one of these prefixes are also omitted. The dbm modules need large libraries."""
_DLOPENED = ("libgcc_s.so.1",)
"""Libraries that programs load by name at run time. glibc needs libgcc_s to cancel and exit threads."""
_USER = 10001
_UNCHECKED_HASH = (0b01).to_bytes(4, "little")
_FILES = {
    "etc/passwd": f"root:x:0:0::/:/sbin/nologin\ngateway:x:{_USER}:{_USER}::/var/lib/gateway:/sbin/nologin\n",
    "etc/group": f"root:x:0:\ngateway:x:{_USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def main(root: Path, environment: Path) -> None:
    """Create the root file system `root` for an environment."""
    python = (environment / "bin/python3").resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(environment, root / environment.relative_to("/"), symlinks=True)
    (root / environment.relative_to("/") / "bin/python3").unlink()
    (root / environment.relative_to("/") / "bin/python3").symlink_to(python)
    _copy(python, root)
    shutil.copytree(standard, root / standard.relative_to("/"), ignore=_unused)
    drop_broken(root / standard.relative_to("/"))
    for path in _libraries([python, *_binaries(root)]):
        _copy(path, root)
    for name in ("lib", "lib64", "bin", "sbin"):
        if Path("/", name).is_symlink() and not (root / name).exists():
            (root / name).symlink_to(Path("/", name).readlink())
    for name, text in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _copy(Path("/etc/ssl/certs/ca-certificates.crt"), root)
    for name in ("etc/ld.so.conf", "etc/ld.so.conf.d"):
        if Path("/", name).is_dir():
            shutil.copytree(Path("/", name), root / name, dirs_exist_ok=True)
        elif Path("/", name).exists():
            _copy(Path("/", name), root)
    subprocess.run(["/sbin/ldconfig", "-r", str(root)], check=True)  # noqa: S603 - our own command line
    # The cache contains inode numbers and times of the build, so it differs between builds.
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)
    (root / "tmp").mkdir(exist_ok=True)  # exists if the environment is below /tmp
    (root / "tmp").chmod(0o1777)
    for name in ("var/lib/gateway", "run/gateway"):
        (root / name).mkdir(parents=True)
        os.chown(root / name, _USER, _USER)
        # The image can run as any user ID, so every user can write to these folders. Other users still cannot use the
        # admin socket, because its mode is 0600.
        (root / name).chmod(0o1777)
    (root / "etc/gateway").mkdir(exist_ok=True)
    compile_all(root)


def compile_all(root: Path) -> None:
    """Write the bytecode of every module below `root`, which halves the start time.

    Omits docstrings, which would use 3 MB of memory in every process. Keeps the docstrings of the gateway's commands,
    which are help texts.
    """
    for path in sorted(root.rglob("*.py")):
        source = path.read_bytes()
        try:
            tree = ast.parse(source)
            if "site-packages/gateway/cli/" not in str(path):
                _drop_docstrings(tree)
            code = compile(tree, f"/{path.relative_to(root)}", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            print(f"not compiled: {path}: {error}", file=sys.stderr)
            continue
        cached = Path(importlib.util.cache_from_source(path))
        cached.parent.mkdir(exist_ok=True)
        # At run time, the files cannot change, so Python does not compare bytecode with its source (PEP 552).
        head = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
        cached.write_bytes(head + marshal.dumps(code))


def _drop_docstrings(tree: ast.Module) -> None:
    for node in _definitions(tree):
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body.pop(0)
            if isinstance(node, ast.ClassDef):
                # Python generates a docstring for a dataclass without one. The docstring "-" is shorter.
                short = ast.copy_location(ast.Constant("-"), docstring)
                node.body.insert(0, ast.copy_location(ast.Expr(short), docstring))
            elif not node.body:
                node.body.append(ast.copy_location(ast.Pass(), docstring))


def _definitions(tree: ast.Module) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the module, and all its classes and functions. Unlike `ast.walk`, does not visit expressions."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            nodes.extend(getattr(node, field, ()))


def drop_broken(standard: Path) -> None:
    """Remove `_tkinter` if the Tk library is missing, as in the official Python image."""
    for path in standard.rglob("_tkinter*.so"):
        if "not found" in _linked(path):
            path.unlink()


def _unused(folder: str, names: list[str]) -> set[str]:
    del folder
    return {name for name in names if name in _UNUSED or name.startswith(_UNUSED_PREFIXES)}


def _binaries(root: Path) -> Iterator[Path]:
    """Yield all shared objects below `root`."""
    for path in root.rglob("*.so*"):
        if path.is_file():
            yield path


def _libraries(binaries: list[Path]) -> set[Path]:
    """Return the libraries that `ldd` lists for the files, except those bundled in a wheel."""
    found = {Path(name) for library in _DLOPENED for name in _cached(library)}
    for binary in binaries:
        for line in _linked(binary).splitlines():
            match = re.search(r"(?:=> )?(/\S+) \(0x", line)
            if match and "site-packages" not in match[1] and "/rootfs/" not in match[1]:
                found.add(Path(match[1]))
            elif "not found" in line:
                raise SystemExit(f"{binary}: {line.strip()}")
    return found


def _linked(binary: Path) -> str:
    command = ["/usr/bin/ldd", str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own


def _cached(library: str) -> list[str]:
    said = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return re.findall(rf"{re.escape(library)} .*=> (/\S+)", said)[:1]


def _copy(path: Path, root: Path) -> None:
    """Copy a file to the same path in `root`, with `/usr/lib` in place of `/lib`. Follows symbolic links."""
    there = root / (path.parent.resolve() / path.name).relative_to("/")
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path.resolve(), there)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
