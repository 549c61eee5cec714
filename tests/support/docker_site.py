"""Runs a gateway and a simulated database in two containers of a Docker or Podman engine."""

import asyncio
import contextlib
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from gateway.audit_log.recorder import AuditLogRecorder
from gateway.docker import plan_executor
from gateway.docker.consumer_registry import ConsumerRegistry
from gateway.docker.engine_connection import connected
from gateway.docker.network_disconnect_limiter import NetworkDisconnectLimiter
from gateway.docker.options import DockerOptions
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.plan import PlannedAction
from gateway.docker.plan_executor import PlanExecutor
from gateway.docker.plan_log_limiter import PlanLogLimiter
from gateway.docker.start_attempts import StartAttempts
from gateway.ops.ops_api_client import OpsApiClient
from tests.support.engines import Engine

SAYING = """
import socketserver, time
class Saying(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"{words}\\n")
        time.sleep({seconds})
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64
Server(("0.0.0.0", 3306), Saying).serve_forever()
"""


OPT_IN = ("--label", "gateway.enable=true")


class Site:
    """A gateway in a container, and a simulated database that sends one line of text to each client."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.audit_log = folder / "audit.jsonl"
        self.client = OpsApiClient(None, str(folder / "admin.sock"))
        # The option `--ip` for the database requires a network with a fixed subnet.
        engine.docker("network", "create", "--subnet", "10.77.1.0/24", "far")
        self.database = "10.77.1.10"
        self.serve("orders-here")

    def write(self, docker: str = "", backend: str = "", host: str | None = None) -> None:
        (self.folder / "gateway.yaml").write_text(
            textwrap.dedent(f"""
            gateway: {{instance: site-a, state_dir: {self.folder}/state}}
            ops: {{listen: "127.0.0.1:9090", admin_socket: {self.folder}/admin.sock}}
            shutdown: {{delay: 0s, drain: 1s}}
            backends:
              orders: {{kind: tcp, targets: ["{self.database}:3306"], listen: 0.0.0.0:3306, hold: 2s{backend}}}
              media: {{kind: tcp, targets: ["{self.database}:3306"], listen: 0.0.0.0:2049, hold: 2s}}
            docker:
              host: {host or self.engine.url}
              networks: {{apps: {{}}}}
            """)
            + textwrap.indent(textwrap.dedent(docker), "  ")
        )

    def write_network(self, options: str) -> None:
        """Write the configuration with these options for the network `apps`."""
        self.write()
        path = self.folder / "gateway.yaml"
        path.write_text(path.read_text().replace("{apps: {}}", f"{{apps: {{{options}}}}}"))

    def serve(self, words: str, seconds: float = 0) -> None:
        program = SAYING.format(words=words, seconds=seconds)
        self.engine.run_python("db", program, "--network", "far", "--ip", self.database)

    def start(self, **write: Any) -> "Site":
        self.write(**write)
        audited = ("-e", f"GATEWAY_AUDIT_LOG={self.audit_log}")
        self.engine.run_gateway("gateway", self.folder, "--network", "far", *audited)
        self.wait(lambda: self.attachment("gateway") == ("attached", None))
        return self

    def get(self, path: str) -> Any:
        return self.client.get(path)[1]

    def attachment(self, name: str) -> tuple[str, str | None] | None:
        found = [each for each in self.get("/api/v1/plan")["attachments"] if each["container"] == name]
        return (found[0]["state"], found[0]["reason"]) if found else None

    def wait(self, condition: Callable[[], bool], timeout: float = 120.0) -> float:
        started = time.monotonic()
        while True:
            with contextlib.suppress(Exception):
                if condition():
                    return time.monotonic() - started
            if time.monotonic() - started > timeout:
                pytest.fail(f"the condition does not hold within {timeout} s: {self._state()}")
            time.sleep(0.05)

    def _state(self) -> str:
        paths = ("/api/v1/plan", "/api/v1/consumers", "/api/v1/status")
        state: list[object] = []
        if (self.folder / "admin.sock").exists():
            with contextlib.suppress(Exception):
                state = [self.get(path) for path in paths]
        listed = self.engine.docker("ps", "-a", check=False).stdout
        outputs = [self.engine.docker("logs", name, check=False) for name in ("gateway", "db")]
        return "\n".join([str(state), listed, *(f"{each.stdout}{each.stderr}" for each in outputs)])

    def says(self, container: str, name: str = "orders", port: int = 3306, within: int = 1) -> str:
        """Connect to the backend `name` from a container; return the line that the backend sends."""
        client = f"timeout {within} nc -w {within} {name} {port} </dev/null"
        return self.engine.docker("exec", container, "sh", "-c", client, check=False, timeout=20).stdout.strip()

    def reaches(self, container: str, timeout: float = 120.0) -> float:
        return self.wait(lambda: self.says(container) == "orders-here", timeout)


class Patient(Site):
    """A site that uses timeouts of at least 120 s, for tests that need more time on a busy machine."""

    def wait(self, condition: Callable[[], bool], timeout: float = 120.0) -> float:
        return super().wait(condition, max(timeout, 120.0))


def address(engine: Engine, container: str, network: str = "apps") -> str:
    return str(engine.inspect(container)["NetworkSettings"]["Networks"][network]["IPAddress"])


def warnings(site: Site) -> list[str]:
    return list(site.get("/api/v1/status")["docker"]["warnings"])


def execute_and_cancel(engine: Engine, folder: Path, actions: Sequence[PlannedAction], delay: float) -> set[str]:
    """Start to execute actions, cancel them after `delay` seconds, and wait until the engine has finished.

    Return the results in the audit log.
    """
    results: set[str] = set()
    recorder = AuditLogRecorder()
    recorder.sink = cast("Any", SimpleNamespace(put=lambda event: results.add(event.fields["result"])))
    executor = PlanExecutor(
        OwnershipRecord(folder), NetworkDisconnectLimiter(8, 30.0), ConsumerRegistry(lambda: None), PlanLogLimiter(),
        recorder, lambda: None, lambda _: None, StartAttempts(), time.monotonic,
    )  # fmt: skip

    async def cancel() -> None:
        async with connected(DockerOptions(host=engine.url), lambda _: None) as client:
            task = asyncio.ensure_future(executor.run(client, actions, actions, wait=True))
            await asyncio.sleep(delay)
            is_cancelled = task.cancel()  # False if the actions were complete before
            await asyncio.wait({task})
            assert task.cancelled() is is_cancelled

    with mock.patch.object(plan_executor, "_COMPLETION_GRACE", 60.0):  # the machine can be busy
        asyncio.run(cancel())
    time.sleep(0.3)  # The engine can continue a request whose client has disconnected.
    return results
