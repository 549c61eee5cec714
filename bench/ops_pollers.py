"""Measure how much status polling delays traffic that consists of small requests through a forward.

Usage: python bench/ops_pollers.py [BACKENDS] [POLLERS] [SECONDS]
"""

import asyncio
import http.client
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, Self

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gateway.demo.server_process import ServerProcess, free_port

_ROUNDS = 7
_CLIENTS = 8
_PAUSE = 0.001
"""Seconds between two requests of a client. Without this pause, the clients would saturate the forward."""
_PATH = "/api/v1/status"


class Site(NamedTuple):
    """A running gateway whose first backend forwards to an echo server."""

    pid: int
    port: int
    """The port of the first backend's listener."""
    ops: int
    """The port of the HTTP server."""


@contextmanager
def site(backends: int, settle: float, extra: Sequence[str] = ()) -> Iterator[Site]:
    """Run a gateway with many backends, and an echo server, until the context exits.

    Args:
        backends: The number of backends.
        settle: Seconds to wait for the first checks.
        extra: Lines of the configuration that define additional backends.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port, ops = Path(name), free_port(), free_port()
        echo = subprocess.Popen([sys.executable, __file__, "--echo", str(target := free_port())])
        lines = [
            f"gateway: {{state_dir: {folder}/state}}",
            f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/admin.sock}}",
            "shutdown: {delay: 0s}",
            "backends:",
            f"  b0: {{kind: tcp, targets: ['127.0.0.1:{target}'], listen: '127.0.0.1:{port}'}}",
            *(f"  b{at}: {{kind: tcp, targets: ['127.0.0.1:{target}']}}" for at in range(1, backends)),
            *extra,
        ]
        (folder / "c.yaml").write_text("\n".join(lines))
        service = ServerProcess(
            [sys.executable, "-m", "gateway", "run", "-c", str(folder / "c.yaml")],
            folder / "log",
            environment={"PYTHONPATH": str(ROOT)},
        )
        try:
            service.start(ops)
            time.sleep(settle)
            yield Site(service.pid, port, ops)
        finally:
            service.stop()
            echo.terminate()
            echo.wait(10)


def main(backends: int, pollers: int, seconds: float) -> None:
    """Measure and print the latency of the traffic in alternate rounds: without pollers, and with all pollers."""
    with site(backends, 3) as running:
        print(f"{backends} backends, {pollers} pollers of {_PATH}, {_CLIENTS} clients, {seconds:g} s each")
        alone, beside = [], []
        for _ in range(_ROUNDS):
            alone.append(_tell("alone", asyncio.run(traffic(running.port, seconds)), 0, seconds))
            with _Pollers(running.ops, pollers) as polled:
                taken = asyncio.run(traffic(running.port, seconds))
            beside.append(_tell("polled", taken, polled.answers, seconds))
        one, other = median(alone), median(beside)
        print(f"  median of the p99: {one:.2f} ms alone, {other:.2f} ms polled: {other / one:.1f} times")


class _Pollers:
    """Run the pollers in a separate process, because the measured clients must not share a GIL with the pollers."""

    def __init__(self, port: int, count: int) -> None:
        self.answers = 0
        self._arguments = [sys.executable, __file__, "--poll", str(port), str(count)]

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.answers = int(self._child.communicate(timeout=60)[0])


def _poll(port: int, count: int) -> None:
    """Poll the status until standard input closes, and print the number of responses."""
    done = threading.Event()
    answers = [0] * count

    def poll(number: int) -> None:
        while not done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", _PATH)
            connection.getresponse().read()
            connection.close()
            answers[number] += 1

    threads = [threading.Thread(target=poll, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    done.set()
    for thread in threads:
        thread.join()
    print(sum(answers))


async def traffic(port: int, seconds: float) -> list[float]:
    """Send small requests from several clients; return the latency of each request in seconds."""

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            writer.write(b"x" * 100)
            await reader.readexactly(100)
            taken.append(time.perf_counter() - started)
            await asyncio.sleep(_PAUSE)
        writer.close()

    taken: list[float] = []
    end = time.perf_counter() + seconds
    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return taken


def _tell(what: str, taken: list[float], answers: int, seconds: float) -> float:
    """Print the results of one round; return the 99th percentile of the latency in milliseconds."""
    taken.sort()
    p50, p99 = (taken[int(len(taken) * part)] * 1e3 for part in (0.5, 0.99))
    print(
        f"  {what:7} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {len(taken)} requests, {answers / seconds:.0f} answers/s"
    )
    return p99


async def _echo(port: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--echo"]:
        asyncio.run(_echo(int(sys.argv[2])))
    elif sys.argv[1:2] == ["--poll"]:
        _poll(int(sys.argv[2]), int(sys.argv[3]))
    else:
        given = [*sys.argv[1:4], *["50", "8", "4"][len(sys.argv) - 1 :]]
        main(int(given[0]), int(given[1]), float(given[2]))
