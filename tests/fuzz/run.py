"""Run each fuzz target in a separate process; see docs/testing.md."""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.fixed import CORPUS
from tests.fuzz.native.run import run_in_ci

TARGETS = ("ssh_receive", "config", "urls", "openvpn_file", "rpc", "smb", "known_hosts")
_CI_RUNS = 2000
"""Number of inputs that CI runs for each fuzz target."""
_CI_SECONDS = 600
"""Time limit in seconds for a fuzz target in CI. The slowest one needs about one minute if the machine is idle."""
_CI_GUIDED = "known_hosts"
"""The fuzz target whose saved inputs CI also runs with libFuzzer, as a test of `tests.fuzz.child`."""
_GRACE = 120
"""A process that exceeds its time limit by this number of seconds is killed."""
_PROGRESS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True)
class Outcome:
    """The result of one fuzz target.

    Args:
        line: A summary to print.
        found: The files with the failing inputs. If the process failed, also the log of the process.
    """

    line: str
    found: list[Path]


def _run(module: str, arguments: list[str], log: Path, seconds: float) -> int:
    """Run a module of `tests.fuzz`; return its exit status."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.fuzz.{module}", *arguments],
            cwd=CORPUS.parents[2], env=environment, stdout=output, stderr=output, timeout=seconds, check=False,
        )  # fmt: skip
    return done.returncode


def run_fixed(name: str, folder: Path) -> Outcome:
    """Run a fuzz target with inputs that are the same in each run. Write failing inputs to `folder`."""
    folder.mkdir(parents=True)
    log, started = folder.with_suffix(".log"), time.monotonic()
    status = _run("fixed", [name, str(folder), str(_CI_RUNS)], log, _CI_SECONDS)
    found = [path for path in sorted(folder.iterdir()) if path.suffix != ".txt"]
    if status:
        return Outcome(f"{name:12} ended with status {status}", [log, *found])
    took = time.monotonic() - started
    return Outcome(f"{name:12} {_CI_RUNS:8} executions {_CI_RUNS / took:6.0f}/s", found)


def fuzz(name: str, folder: Path, seconds: int, options: list[str]) -> Outcome:
    """Run libFuzzer with one fuzz target for `seconds` seconds. Write new and failing inputs to `folder`."""
    learned, found, log = folder / "corpus", folder / "findings", folder / "log"
    for each in (learned, found):
        each.mkdir(parents=True, exist_ok=True)
    limits = ["-timeout=60", "-rss_limit_mb=2048", "-len_control=10", f"-artifact_prefix={found}/"]
    inputs = [str(learned), str(CORPUS / name)]
    started = time.time()
    arguments = [name, str(found), f"-max_total_time={seconds}", *limits, *options, *inputs]
    status = _run("child", arguments, log, seconds + _GRACE)
    took = time.time() - started
    progress = _PROGRESS.findall(log.read_text(errors="replace"))
    new = [path for path in sorted(found.iterdir()) if path.suffix != ".txt" and path.stat().st_mtime >= started - 1]
    if not progress or (status and not new):
        return Outcome(f"{name:12} ended with status {status}", [log])
    count, edges, features, kept = map(int, progress[-1])
    return Outcome(
        f"{name:12} {count:8} executions {count / took:6.0f}/s {edges:6} edges {features:6} features {kept:5} inputs",
        new,
    )


def distil(name: str, folder: Path) -> str:
    """Replace the saved inputs with a minimal set that covers the same code as all saved and new inputs."""
    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryDirectory() as findings:
        inputs = [fresh, str(CORPUS / name), str(folder / "corpus")]
        log = folder / "log"
        if status := _run("child", [name, findings, "-set_cover_merge=1", *inputs], log, 3600):
            return f"{name:12} ended with status {status}: {log}"
        shutil.rmtree(CORPUS / name)
        shutil.copytree(fresh, CORPUS / name)
    files = list((CORPUS / name).iterdir())
    return f"{name:12} {len(files):>5} inputs {sum(path.stat().st_size for path in files):>7} bytes"


def replay(name: str, path: Path) -> int:
    """Run one input. Print a description of the input, and whether the input fails."""
    target = importlib.import_module(f"tests.fuzz.targets.{name}")
    data = path.read_bytes()
    print(target.describe(data))
    try:
        target.check(data)
    except Exception:
        traceback.print_exc()
        return 1
    print("passes")
    return 0


def main() -> int:
    """Run the program. Return the exit status: 1 if an input failed, otherwise 0."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all, one after the other")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--ci", action="store_true", help="run the same inputs each time")
    parser.add_argument("--out", type=Path, help="folder for findings and new inputs (default: a folder in /tmp)")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="run one input of --target, and print its description"
    )
    parser.add_argument("--distil", action="store_true", help="replace the corpus with the best of all known inputs")
    chosen = parser.parse_args()
    names = chosen.target or list(TARGETS)
    out = chosen.out or Path(tempfile.gettempdir()) / f"gateway-fuzz-{os.getuid()}"
    if chosen.replay is not None:
        return replay(names[0], chosen.replay)
    if chosen.distil:
        print("\n".join(distil(name, out / name) for name in names))
        return 0
    if chosen.ci:
        out = Path(tempfile.mkdtemp(prefix="gateway-fuzz-"))
    failed: list[str] = []
    for name in names:
        outcome = run_fixed(name, out / name) if chosen.ci else fuzz(name, out / name, chosen.seconds, [])
        print(outcome.line, flush=True)
        failed += [f"{path}: {_headline(path)}" for path in outcome.found]
    if chosen.ci and not chosen.target:
        outcome = fuzz(_CI_GUIDED, out / "guided", _CI_SECONDS, ["-runs=1"])
        print(outcome.line, flush=True)
        failed += [f"{path}: {_headline(path)}" for path in outcome.found]
        line, status = run_in_ci(out / "native")
        print(line, flush=True)
        failed += [f"{out}/native: run `make fuzz-native` with the input"] * status
    print("\n".join(failed), end="\n" if failed else "")
    return 1 if failed else 0


def _headline(path: Path) -> str:
    described = path.with_suffix(".txt")
    return described.read_text().partition("\n")[0] if described.exists() else "see the log in the folder above"


if __name__ == "__main__":
    sys.exit(main())
