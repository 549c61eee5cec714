"""Checks that the gateway's memory, descriptors and tasks do not grow during a chaos run."""

import re
import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

EVERY = 5.0
MORE_TASKS, MORE_DESCRIPTORS, MORE_MEMORY = 60, 40, 80
"""Allowed increase of each median from the first to the last third of the samples. Temporary connections and
Python's allocator cause some increase."""
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
    """Samples the resources of the gateway every few seconds.

    Args:
        pid: ID of the gateway's process.
        ops_port: Port of the gateway's metrics.
    """

    def __init__(self, pid: int, ops_port: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._port = pid, ops_port
        self._stopped = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Take samples until stopped."""
        while not self._stopped.wait(EVERY):
            try:
                self.samples.append(self._look())
            except OSError:  # The gateway does not answer while a fault suspends it.
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
        """Return a summary of the samples, and whether a median grew by more than the allowed increase."""
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
