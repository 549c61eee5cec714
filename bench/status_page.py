"""Measure the status page of a site with many backends: size, time to serve, and how much open pages delay traffic.

The state of one backend changes every second. Each simulated open page sends the same requests as `page.js`. The page
reads the event stream. After an event, the page requests what has changed. It sends such a request at least every ten
seconds, and at most once a second. The exit code is 1 if a result exceeds its limit.

Usage: python bench/status_page.py [BACKENDS] [PAGES] [SECONDS]
"""

import asyncio
import contextlib
import gzip
import http.client
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from ops_pollers import Site, site, traffic

from gateway.demo.server_process import free_port

_ROUNDS = 7
_REFRESH, _SHORTEST, _AFTER_EVENT = 10.0, 1.0, 0.1
"""Times in seconds, as in `page.js`: the interval of requests without events, the minimum time between two requests,
and the delay from an event to the request."""
_REQUESTS = 20
_CHANGE = 1.0
"""Seconds between two changes of the state of a backend."""
_SETTLE = 2.0
"""Seconds between two measurements of the traffic."""
_MAX_SIZE, _MAX_MS, _MAX_UPDATE_MS, _MAX_RATIO = 300_000, 200.0, 5.0, 1.2
_VERSION = re.compile(rb'data-version="(\w+)"')


def main(backends: int, pages: int, seconds: float) -> int:
    """Measure and print the results; return the exit code."""
    changing = free_port()
    check = "{interval: 200ms, down_interval: 200ms, fall: 1, rise: 1}"
    extra = f"  changing: {{kind: tcp, targets: ['127.0.0.1:{changing}'], check: {check}}}"
    print(f"{backends} backends, {pages} open pages, a change every {_CHANGE:g} s, {_ROUNDS} rounds of {seconds:g} s")
    with site(backends - 1, 5, [extra]) as running, _changes(changing):
        size, taken, updates = _page(running.pid, running.ops)
        rounds = [_round(running, pages, seconds, alone_first=number % 2 == 0) for number in range(_ROUNDS)]
    print(f"  load average: {' '.join(f'{each:.1f}' for each in os.getloadavg())}, {os.cpu_count()} CPUs")
    results = (
        ("size", size / 1000, _MAX_SIZE / 1000, "kB"),
        ("time to serve, median", statistics.median(taken), _MAX_MS, "ms"),
        ("CPU time of an update, median", statistics.median(updates), _MAX_UPDATE_MS, "ms"),
        (
            "p99 of the traffic beside the open pages, median",
            statistics.median(rounds),
            _MAX_RATIO,
            "times that alone",
        ),
    )
    for what, value, limit, unit in results:
        print(f"{'ok  ' if value <= limit else 'FAIL'} {what}: {value:.3g} {unit} (limit {limit:g})")
    return int(any(value > limit for _, value, limit, _ in results))


@contextlib.contextmanager
def _changes(port: int) -> Iterator[None]:
    """Alternately start and stop listening on a port, until the context exits."""
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            with socket.create_server(("127.0.0.1", port)):
                done.wait(_CHANGE)
            done.wait(_CHANGE)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _page(pid: int, ops: int) -> tuple[int, list[float], list[float]]:
    """Measure the page, and updates of the page. An update is the request of an open page after a change.

    Returns:
        The size of the page in bytes, the times to serve the page in milliseconds, and the gateway's CPU time for
        each update in milliseconds.
    """
    taken, used, updates, size = [], [], [], 0
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", ops, timeout=30)) as connection:
        for _ in range(_REQUESTS):
            time.sleep(1.1)  # wait until the cached response has expired
            started, before = time.perf_counter(), _cpu_seconds(pid)
            size = len(_get(connection, "/", "identity"))
            taken.append((time.perf_counter() - started) * 1e3)
            used.append((_cpu_seconds(pid) - before) * 1e3)
        page, version = _get_page(connection, "")
        for _ in range(_REQUESTS):
            time.sleep(1.1)  # wait for a change of the state
            before = _cpu_seconds(pid)
            update, version = _get_page(connection, version)
            updates.append((_cpu_seconds(pid) - before) * 1e3)
    print(
        f"  the page: {size / 1000:.0f} kB ({page / 1000:.0f} kB compressed), {statistics.median(used):.1f} ms",
        end=" ",
    )
    print(f"of CPU time, served in {statistics.median(taken):.0f} ms, worst of {_REQUESTS} {max(taken):.0f} ms")
    print(
        f"  the last update: {update / 1000:.1f} kB compressed; an update: {statistics.median(updates):.1f} ms",
        end=" ",
    )
    print(f"of CPU time, worst of {_REQUESTS} {max(updates):.1f} ms")
    return size, taken, updates


def _get(connection: http.client.HTTPConnection, path: str, encoding: str) -> bytes:
    connection.request("GET", path, headers={"Accept-Encoding": encoding})
    return connection.getresponse().read()


def _get_page(connection: http.client.HTTPConnection, version: str) -> tuple[int, str]:
    """Request what `page.js` requests; return the compressed size in bytes, and the version of the response."""
    body = _get(connection, f"/?since={version}", "gzip")
    return len(body), _VERSION.findall(gzip.decompress(body))[0].decode()


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def _round(running: Site, pages: int, seconds: float, *, alone_first: bool) -> float:
    """Return the p99 of the traffic while pages are open, divided by the p99 without open pages.

    Callers alternate the order of both measurements, because the speed of a machine drifts.
    """
    alone = _p99(asyncio.run(traffic(running.port, seconds))) if alone_first else 0.0
    child = subprocess.Popen(
        [sys.executable, __file__, "--pages", str(running.ops), str(pages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(_SETTLE)  # wait until the pages are open
    before = _cpu_seconds(running.pid)
    beside = _p99(asyncio.run(traffic(running.port, seconds)))
    cpu = (_cpu_seconds(running.pid) - before) / seconds
    loads, events = child.communicate(timeout=60)[0].split()
    if not alone_first:
        time.sleep(_SETTLE)
        alone = _p99(asyncio.run(traffic(running.port, seconds)))
    ratio = beside / alone
    print(f"  p99 {alone:.2f} ms alone, {beside:.2f} ms beside {pages} open pages: {ratio:.2f} times", end="; ")
    print(f"each page received {int(events) / pages:.0f} events and loaded {int(loads) / pages:.0f} times", end="; ")
    print(f"the gateway used {cpu:.0%} of a CPU")
    return ratio


def _p99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)] * 1e3


class _OpenPage:
    """An open page: one thread reads the event stream, and one requests the page.

    As in a browser, the connections stay open, and the page is compressed.
    """

    def __init__(self, ops: int) -> None:
        self.loads = self.events = 0
        self._due = threading.Condition()
        self._next = 0.0
        """Monotonic time of the next request."""
        self._done = False
        self._stream = http.client.HTTPConnection("127.0.0.1", ops, timeout=60)
        self._connection = http.client.HTTPConnection("127.0.0.1", ops, timeout=30)
        self._threads = [threading.Thread(target=each) for each in (self._read, self._request)]
        for each in self._threads:
            each.start()

    def close(self) -> None:
        """Close the page, and wait for its threads."""
        with self._due:
            self._done = True
            self._due.notify()
        if self._stream.sock is not None:
            self._stream.sock.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join()
        self._stream.close()
        self._connection.close()

    def _read(self) -> None:
        self._stream.request("GET", "/api/v1/events")
        with contextlib.suppress(OSError, http.client.HTTPException):
            for line in self._stream.getresponse():
                if line.startswith(b"data:"):
                    self.events += 1
                    with self._due:
                        self._next = min(self._next, time.monotonic() + _AFTER_EVENT)
                        self._due.notify()

    def _request(self) -> None:
        earliest, version = 0.0, ""
        while True:
            with self._due:
                while not self._done and (left := max(self._next, earliest) - time.monotonic()) > 0:
                    self._due.wait(left)
                if self._done:
                    return
                self._next = time.monotonic() + _REFRESH - time.time() % _REFRESH
            earliest = time.monotonic() + _SHORTEST
            _, version = _get_page(self._connection, version)
            self.loads += 1


def _open_pages(ops: int, count: int, wait: Callable[[], object]) -> None:
    """Keep pages open until `wait` returns, then print the number of requests and of events."""
    pages = [_OpenPage(ops) for _ in range(count)]
    wait()
    for each in pages:
        each.close()
    print(sum(each.loads for each in pages), sum(each.events for each in pages))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pages"]:
        _open_pages(int(sys.argv[2]), int(sys.argv[3]), sys.stdin.read)
    else:
        given = [*sys.argv[1:4], *["500", "8", "30"][len(sys.argv) - 1 :]]
        sys.exit(main(int(given[0]), int(given[1]), float(given[2])))
