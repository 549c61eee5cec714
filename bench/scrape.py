"""Measure how much a scrape of many checks delays the event loop, from the service's histogram of event loop lag.

Usage: python bench/scrape.py [CHECKS] [SCRAPES]
"""

import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateway.demo.server_process import ServerProcess, free_port


def main(checks: int, scrapes: int) -> None:
    """Print the histogram of the event loop's lag during scrapes, and the duration of the scrapes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ops = free_port()
        lines = [
            f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/admin.sock}}",
            "shutdown: {delay: 0s}",
            "backends:",
        ]
        # A check of kind tcp needs only a target that accepts connections, such as the ops port of the service.
        lines += [f"  b{at}: {{kind: tcp, targets: ['127.0.0.1:{ops}']}}" for at in range(checks)]
        (folder / "c.yaml").write_text("\n".join(lines))
        root = str(Path(__file__).parents[1])
        service = ServerProcess(
            [sys.executable, "-m", "gateway", "run", "-c", str(folder / "c.yaml")],
            folder / "log",
            environment={"PYTHONPATH": root},
        )
        service.start(ops)
        try:
            time.sleep(5)
            idle_before = _lag(_scrape(ops)[0])
            time.sleep(0.5 * scrapes)
            before = _lag(_scrape(ops)[0])
            took = []
            for _ in range(scrapes):
                text, seconds = _scrape(ops)
                took.append(seconds)
                time.sleep(0.2)
            after = _lag(_scrape(ops)[0])
        finally:
            service.stop()
    samples = sum(1 for line in text.splitlines() if not line.startswith("#"))
    took.sort()
    median = took[len(took) // 2] * 1e3
    print(f"{checks} checks, {samples} samples, {scrapes} scrapes; a scrape takes {median:.0f} ms (median)")
    print("event loop lag (counts up to each bound, idle and while scraping):")
    for le, count in after.items():
        print(f"  <= {le:>7} s: {before[le] - idle_before[le]:6.0f} {count - before[le]:6.0f}")


def _scrape(port: int) -> tuple[str, float]:
    started = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return text, time.perf_counter() - started


def _lag(text: str) -> dict[str, float]:
    pairs = re.findall(r'^gateway_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {le: float(count) for le, count in pairs}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 50)
