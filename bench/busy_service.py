"""Measure how much the service's Python code delays clients of an SSH tunnel.

In each round, the script measures the p99.9 of the round trips of 64 clients under four conditions:
- alone
- while /metrics of many backends is scraped continuously
- while a thread of the service continuously executes Python code
- for comparison, while another process continuously executes Python code. This process takes the same processor time
  as the thread, but does not hold the lock of the service's interpreter (GIL).

The exit code is 1 if the scrapes or the thread delay the clients more than the limit.

Usage: python bench/busy_service.py [BACKENDS] [SECONDS] [ROUNDS]
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from site_paths import LOAD, ROOT, build

from gateway.demo.server_process import ServerProcess, free_port
from gateway.demo.sshd import Bastion

_CLIENTS, _REQUEST, _RESPONSE = 64, 200, 4096
_PAUSE = 10_000
"""Microseconds between two requests of a client. Without this pause, the clients would use all processors."""
_MAX_RATIO = 1.5
_BUSY_THREAD = """
import os, threading, time
def work():
    while True:
        if os.path.exists({flag!r}):
            for _ in range(100_000):
                pass
        else:
            time.sleep(0.05)
threading.Thread(target=work, daemon=True).start()
"""
"""The module `sitecustomize`, which the interpreter imports at start. The module starts a thread. While the file
at the path `flag` exists, this thread executes Python code."""


def main(backends: int, seconds: float, rounds: int) -> int:
    """Measure and print the results; return the exit code."""
    build()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        port, ops = stack.enter_context(_service(folder, backends))
        print(f"{backends} backends, {_CLIENTS} clients, {rounds} rounds of {seconds:g} s, {os.cpu_count()} CPUs")
        conditions: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
            "alone": contextlib.nullcontext,
            "during scrapes": lambda: _scrapes(ops),
            "while Python is busy": lambda: _flag(folder / "busy"),
            "while another process is busy": _other_process,
        }
        taken: dict[str, list[float]] = {each: [] for each in conditions}
        for number in range(rounds):
            order = list(conditions)[number % len(conditions) :] + list(conditions)[: number % len(conditions)]
            for each in order:
                with conditions[each]():
                    time.sleep(0.5)
                    taken[each].append(_p999(port, seconds))
        medians = {each: statistics.median(values) for each, values in taken.items()}
        print(f"  load average: {' '.join(f'{each:.1f}' for each in os.getloadavg())}")
        for each, value in medians.items():
            print(f"  p99.9 {each}: {value / 1e3:.2f} ms, {value / medians['alone']:.2f} times that alone")
    return int(max(medians["during scrapes"], medians["while Python is busy"]) > _MAX_RATIO * medians["alone"])


@contextlib.contextmanager
def _service(folder: Path, backends: int) -> Iterator[tuple[int, int]]:
    """Run the load server, an SSH server and the service; yield the ports of the first backend and of /metrics."""
    server, port, ops = free_port(), free_port(), free_port()
    load = ServerProcess([str(LOAD), "serve", str(server)], folder / "load.log")
    bastion = Bastion(folder / "bastion").start()
    (folder / "path").mkdir()
    (folder / "path" / "sitecustomize.py").write_text(_BUSY_THREAD.format(flag=str(folder / "busy")))
    keys = f"kind: ssh, host: 127.0.0.1, port: {bastion.port}, user: {bastion.user}"
    files = f"identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]"
    lines = [
        f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/admin.sock}}",
        "shutdown: {delay: 0s, drain: 1s}",
        "tunnels:",
        f"  edge: {{{keys}, {files}}}",
        "backends:",
        f"  load: {{kind: tcp, via: edge, targets: ['127.0.0.1:{server}'], listen: 127.0.0.1:{port}}}",
        # A check of kind tcp needs only a target that accepts connections.
        *(f"  b{at}: {{kind: tcp, targets: ['127.0.0.1:{server}']}}" for at in range(1, backends)),
    ]
    (folder / "gateway.yaml").write_text("\n".join(lines) + "\n")
    service = ServerProcess(
        [sys.executable, "-m", "gateway", "run", "-c", str(folder / "gateway.yaml")],
        folder / "log",
        environment={"PYTHONPATH": f"{folder}/path:{ROOT}"},
    )
    try:
        load.start(server)
        service.start(ops)
        time.sleep(5)  # wait for the first checks
        yield port, ops
    finally:
        service.stop()
        bastion.stop()
        load.stop()


def _p999(port: int, seconds: float) -> float:
    """Return the p99.9 of the clients' round trips in microseconds."""
    arguments = [str(LOAD), "pp", str(port), str(_CLIENTS), str(_REQUEST), str(_RESPONSE), str(seconds), str(_PAUSE)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return float(done.stdout.split()[3])


@contextlib.contextmanager
def _scrapes(ops: int) -> Iterator[None]:
    """Request /metrics, one request after the other, until the context exits."""
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            with urllib.request.urlopen(f"http://127.0.0.1:{ops}/metrics", timeout=30) as response:
                response.read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _flag(path: Path) -> Iterator[None]:
    path.touch()
    try:
        yield
    finally:
        path.unlink()


@contextlib.contextmanager
def _other_process() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    given = sys.argv[1:]
    given += ["1000", "4", "8"][len(given) :]
    sys.exit(main(int(given[0]), float(given[1]), int(given[2])))
