"""Builds the native engine, a C extension, when the package is built.

The extension is optional. If a C compiler, Python's headers or OpenSSL's headers are missing, the package works
without the extension. `python hatch_build.py` builds the extension in the source tree, and fails if the build fails.
The variable `CC` selects the compiler.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
FOLDER = "gateway/_dataplane"
NAME = "engine.abi3.so"
FLAGS = [
    "-std=c11", "-fPIC", "-fvisibility=hidden", "-pthread", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030B0000",
    "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-fstack-protector-strong",
]  # fmt: skip
RELEASE = ["-O2", "-D_FORTIFY_SOURCE=2"]
DEBUG = ["-O1", "-g", "-fno-omit-frame-pointer"]
VARIANTS = {
    "--debug": DEBUG,
    "--coverage": ["-O0", "-g", "--coverage"],
    "--sanitize": [*DEBUG, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "--sanitize-threads": [*DEBUG, "-fsanitize=thread"],
}
LINK = ["-shared", "-Wl,-z,relro,-z,now", "-Wl,--build-id=none", "-lcrypto"]


def compile_extension(target: Path, options: list[str]) -> None:
    """Compile and link the extension.

    Args:
        target: The shared object to create.
        options: Options for the compiler, for example for optimization.

    Raises:
        OSError: There is no compiler.
        subprocess.CalledProcessError: The compiler failed; `stderr` has the reason.
    """
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / FOLDER).glob("*.c"))
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(  # noqa: S603 - the arguments are constants and names of our files
        [*compiler, *FLAGS, *options, include, *sources, "-o", f"{target}.new", *LINK],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    Path(f"{target}.new").replace(target)  # does not change the file that running processes have loaded


class DataPlaneHook(BuildHookInterface[Any]):
    """Adds the extension to the wheel, or builds it in the source tree for an editable installation."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See `BuildHookInterface.initialize`."""
        if self.target_name != "wheel":
            return
        self._folder = tempfile.TemporaryDirectory()
        in_place = version == "editable"
        target = ROOT / FOLDER / NAME if in_place else Path(self._folder.name) / NAME
        try:
            compile_extension(target, RELEASE)
        except (OSError, subprocess.SubprocessError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
            self.app.display_warning(f"The data plane in C is not built, so asyncssh carries SSH channels: {reason}")
            return
        if not in_place:
            build_data["force_include"][str(target)] = f"{FOLDER}/{NAME}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data.update(pure_python=False, tag=f"cp311-abi3-{platform}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """See `BuildHookInterface.finalize`. Deletes the temporary files."""
        del version, build_data, artifact_path
        if self.target_name == "wheel":
            self._folder.cleanup()


if __name__ == "__main__":
    try:
        compile_extension(ROOT / FOLDER / NAME, next((VARIANTS[each] for each in sys.argv[1:]), RELEASE))
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.stderr)
