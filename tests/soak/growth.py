"""Checks that the gateway does not leak memory, file descriptors or asyncio tasks during a chaos test."""

import re
import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

EVERY = 5.0
MORE_TASKS, MORE_DESCRIPTORS, MORE_MEMORY = 60, 40, 80
"""Allowed growth of the number of tasks, the number of file descriptors, and the memory in MiB. The growth is the
difference between the median of the first third of the samples and the median of the last third. Open connections
and Python's memory allocator cause some growth."""
_NAMES = ("tasks", "descriptors", "MiB")


@dataclass
class Sample:
    """One sample of the gateway's resources.

    Args:
        tasks: Number of tasks on the gateway's event loop.
        descriptors: Number of open file descriptors.
        memory: Resident memory in MiB.
    """

    tasks: int
    descriptors: int
    memory: int


class Growth(threading.Thread):
    """Measures the gateway's tasks, file descriptors and memory every few seconds.

    Args:
        pid: The ID of the gateway's process.
        ops_port: The port on which the gateway serves its metrics.
    """

    def __init__(self, pid: int, ops_port: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._port = pid, ops_port
        self._stopped = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Take samples until `stop` is called."""
        while not self._stopped.wait(EVERY):
            try:
                self.samples.append(self._look())
            except OSError:  # a suspended gateway does not respond
                time.sleep(0.1)

    def _look(self) -> Sample:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=3) as answer:
            metrics = answer.read().decode()
        tasks = re.search(r"^gateway_tasks (\S+)", metrics, re.MULTILINE)
        status = Path(f"/proc/{self._pid}/status").read_text()
        return Sample(
            int(float(tasks[1])) if tasks else 0,
            len(list(Path(f"/proc/{self._pid}/fd").iterdir())),
            int(status.split("VmRSS:")[1].split()[0]) // 1024,
        )

    def stop(self) -> None:
        """Stop taking samples."""
        self._stopped.set()
        self.join(10)

    def summary(self) -> tuple[str, bool]:
        """Return a summary of the samples, and whether the gateway grew more than allowed."""
        third = len(self.samples) // 3
        if not third:
            return "the run was too short to measure growth", False
        parts, grew = [], False
        columns = [(each.tasks, each.descriptors, each.memory) for each in self.samples]
        for at, (name, most) in enumerate(zip(_NAMES, (MORE_TASKS, MORE_DESCRIPTORS, MORE_MEMORY), strict=True)):
            values = [column[at] for column in columns]
            first, last = statistics.median(values[:third]), statistics.median(values[-third:])
            grew = grew or last > first + most
            parts.append(f"{name} {first:.0f} -> {last:.0f} ({min(values)} to {max(values)})")
        return f"medians of the first and last third of {len(values)} samples: {', '.join(parts)}", grew
