"""Fuzz each target in a separate process; see docs/testing.md."""

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

from tests.fuzz.native.run import run_in_ci

CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("ssh_receive", "config", "urls", "openvpn_file", "rpc", "smb", "known_hosts")
_SSH = TARGETS[0]
_CI_SECONDS = dict.fromkeys(TARGETS, 10) | {_SSH: 120}
_CI_RUNS = dict.fromkeys(TARGETS, 4000) | {_SSH: 10_000}
"""Maximum number of inputs in CI. Without this limit, a fast machine would run more inputs than a slow machine."""
_GRACE = 120
"""Seconds from the time limit of a child process until the child process is killed."""
_PROGRESS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True)
class Outcome:
    """The result of fuzzing one target.

    Args:
        line: A summary to print.
        found: The files of the inputs that fail.
    """

    line: str
    found: list[Path]


def _child(name: str, folder: Path, log: Path, seconds: int, options: list[str]) -> int:
    """Run `tests.fuzz.child`; return its exit status."""
    command = [sys.executable, "-m", "tests.fuzz.child", name, str(folder), *options]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            cwd=CORPUS.parents[2],
            env=environment,
            stdout=output,
            stderr=output,
            timeout=seconds,
            check=False,
        )
    return done.returncode


def fuzz(name: str, folder: Path, seconds: int, options: list[str]) -> Outcome:
    """Fuzz one target for `seconds`; write new inputs and findings to `folder`."""
    learned, found, log = folder / "corpus", folder / "findings", folder / "log"
    for each in (learned, found):
        each.mkdir(parents=True, exist_ok=True)
    limits = ["-timeout=60", "-rss_limit_mb=2048", "-len_control=10", f"-artifact_prefix={found}/"]
    inputs = [str(learned), str(CORPUS / name)]
    started = time.time()
    status = _child(name, found, log, seconds + _GRACE, [f"-max_total_time={seconds}", *limits, *options, *inputs])
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
    """Replace the corpus in the repository with the smallest subset of the known inputs that has equal coverage."""
    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryDirectory() as findings:
        inputs = [fresh, str(CORPUS / name), str(folder / "corpus")]
        log = folder / "log"
        if status := _child(name, Path(findings), log, 3600, ["-set_cover_merge=1", *inputs]):
            return f"{name:12} ended with status {status}: {log}"
        shutil.rmtree(CORPUS / name)
        shutil.copytree(fresh, CORPUS / name)
    files = list((CORPUS / name).iterdir())
    return f"{name:12} {len(files):>5} inputs {sum(path.stat().st_size for path in files):>7} bytes"


def replay(name: str, path: Path) -> int:
    """Run one input, and print the description of the input and the failure."""
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
    """Run the command line; return 1 if there are findings."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all, one after the other")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--ci", action="store_true", help="run the same inputs each time, for four minutes at most")
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
        options = ["--fixed", "-seed=1", f"-runs={_CI_RUNS[name]}"] if chosen.ci else []
        outcome = fuzz(name, out / name, _CI_SECONDS[name] if chosen.ci else chosen.seconds, options)
        print(outcome.line, flush=True)
        failed += [f"{path}: {_headline(path)}" for path in outcome.found]
    if chosen.ci and not chosen.target:
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
