"""Measure the status page of a site with many backends: size, time to serve, and how much open pages delay traffic.

An open page reads the event stream, and requests the page at each multiple of ten seconds, as its script does.

Usage: python bench/status_page.py [BACKENDS] [PAGES] [SECONDS]
"""

import asyncio
import http.client
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from ops_pollers import site, traffic

_ROUNDS = 7
_REFRESH = 10.0
_REQUESTS = 20


def main(backends: int, pages: int, seconds: float) -> None:
    """Measure and print the results."""
    with site(backends, 5) as running:
        _print_page(running.pid, running.ops, backends)
        ratios = [_round(running.port, running.ops, pages, seconds) for _ in range(_ROUNDS)]
        print(f"  median: p99 with {pages} open pages is {statistics.median(ratios):.2f} times that without")


def _print_page(pid: int, ops: int, backends: int) -> None:
    taken = []
    before = _cpu_seconds(pid)
    time.sleep(1.1 * _REQUESTS)
    idle, before = _cpu_seconds(pid) - before, _cpu_seconds(pid)
    for _ in range(_REQUESTS):
        time.sleep(1.1)  # The response is cached for a second.
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", ops, timeout=30)
        connection.request("GET", "/")
        size = len(connection.getresponse().read())
        connection.close()
        taken.append((time.perf_counter() - started) * 1e3)
    print(f"{backends} backends: the page has {size / 1000:.0f} kB;", end=" ")
    cpu = (_cpu_seconds(pid) - before - idle) / _REQUESTS * 1e3
    print(f"{cpu:.0f} ms of CPU time;", end=" ")
    print(f"served in {statistics.median(taken):.0f} ms (median), {max(taken):.0f} ms (worst of {_REQUESTS})")


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _round(port: int, ops: int, pages: int, seconds: float) -> float:
    alone = _p99(asyncio.run(traffic(port, seconds)))
    child = subprocess.Popen(
        [sys.executable, __file__, "--pages", str(ops), str(pages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)  # Until the pages are open.
    beside = _p99(asyncio.run(traffic(port, seconds)))
    loads = child.communicate(timeout=60)[0].strip()
    print(f"  p99 {alone:.2f} ms alone, {beside:.2f} ms with {pages} open pages, which loaded {loads} times")
    return beside / alone


def _p99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)] * 1e3


def _open_pages(ops: int, count: int) -> None:
    """Keep pages open until standard input closes, and print how often they were loaded."""
    done, loads = threading.Event(), [0] * count

    def page(number: int) -> None:
        stream = http.client.HTTPConnection("127.0.0.1", ops, timeout=60)
        stream.request("GET", "/api/v1/events")
        response = stream.getresponse()
        while not done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", ops, timeout=30)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            loads[number] += 1
            done.wait(_REFRESH - time.time() % _REFRESH)
        response.close()
        stream.close()

    threads = [threading.Thread(target=page, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    done.set()
    for thread in threads:
        thread.join()
    print(sum(loads))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pages"]:
        _open_pages(int(sys.argv[2]), int(sys.argv[3]))
    else:
        given = [*sys.argv[1:4], *["500", "8", "12"][len(sys.argv) - 1 :]]
        main(int(given[0]), int(given[1]), float(given[2]))
