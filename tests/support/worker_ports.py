"""Gives each worker of pytest-xdist separate ports, so that the servers of two workers never use the same port."""

import os

from gateway.demo import server_process


def use_own_ports() -> None:
    """Restrict `free_port` to the ports of this worker. A second call in one process would restrict them again."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        server_process.PORTS = server_process.PORTS[number::count]
