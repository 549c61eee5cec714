"""Kills the preferred database repeatedly, and measures how soon clients reach the other database.

After the preferred database has started again, no attempt of a client may fail.
"""

import argparse
import random
import signal
import statistics
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

from gateway.demo.mariadb import MariaDB
from gateway.demo.server_process import ServerProcess, free_port
from gateway.demo.sshd import Bastion
from gateway.ops.ops_api_client import OpsApiClient as Ops
from tests.soak.chaos_site import missing
from tests.soak.load import Client, MySqlStep
from tests.support.files import PYTHON_PATH, scratch, write_secret

P95 = 5.0
"""Maximum allowed 95th percentile of the seconds until clients reach the other database."""
_RECOVERY = 30.0
"""Maximum seconds from a kill until each client has a successful attempt."""


def failover(count: int, folder: Path) -> int:
    """Kill the preferred database `count` times, and print the results; return the exit code."""
    with ExitStack() as stack:
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        one, two = MariaDB(folder / "one"), MariaDB(folder / "two")
        two.password, two.check_password = one.password, one.check_password
        for server in (one, two):
            server.start()
            stack.callback(server.stop)
        ops, port = free_port(), free_port()
        write_secret(folder / "secret", one.check_password)
        config = folder / "gateway.yaml"
        config.write_text(
            textwrap.dedent(f"""
            gateway: {{state_dir: {folder}/state}}
            ops: {{listen: "127.0.0.1:{ops}", admin_socket: {folder}/admin.sock}}
            tunnels:
              bastion: {{kind: ssh, host: 127.0.0.1, port: {bastion.port}, user: {bastion.user},
                         identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]}}
            backends:
              orders:
                kind: mysql
                via: bastion
                targets: ["127.0.0.1:{one.port}", "127.0.0.1:{two.port}"]
                prefer: order
                listen: 127.0.0.1:{port}
                check: {{user: {one.check_user}, password_file: {folder}/secret, rise: 2}}
        """)
        )
        gateway = ServerProcess(
            [sys.executable, "-m", "gateway", "run", "-c", str(config)],
            folder / "gateway.log",
            environment={"PYTHONPATH": PYTHON_PATH},
        )
        gateway.start(ops)
        stack.callback(gateway.stop, signal.SIGTERM)
        admin = Ops(None, str(folder / "admin.sock"))
        load = [Client("mysql", MySqlStep(one, port, keep)) for keep in (True, True, True, False, False, False)]
        _wait(admin, ["up", "up"])
        for client in load:
            client.start()
        time.sleep(1)
        over: list[float] = []
        broken = 0
        for _ in range(count):
            killed = time.monotonic()
            one.stop(signal.SIGKILL)
            time.sleep(random.uniform(1, 3))
            over += [client.next_success(killed, _RECOVERY) - killed for client in load]
            one.start()
            back = time.monotonic()
            _wait(admin, ["up", "up"])
            time.sleep(1)
            broken += sum(each.outcome != "ok" for client in load for each in client.attempts if each.began > back)
        for client in load:
            client.stop()
        for client in load:
            client.join(30)
    outcomes = [each.outcome for client in load for each in client.attempts]
    print(
        f"{count} failovers: next success p50 {statistics.median(over):.2f} s, "
        f"p95 {statistics.quantiles(over, n=20)[-1]:.2f} s, worst {max(over):.2f} s; "
        f"{outcomes.count('ok')} answers, {outcomes.count('wrong')} wrong, {broken} broken at the return"
    )
    return 1 if broken or "wrong" in outcomes or statistics.quantiles(over, n=20)[-1] > P95 else 0


def _wait(admin: Ops, states: list[str]) -> None:
    deadline = time.monotonic() + 30
    while [each["state"] for each in admin.get("/api/v1/status")[1]["backends"]["orders"]["targets"]] != states:
        if time.monotonic() > deadline:
            raise TimeoutError("the databases did not come up")
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=30)
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"this machine lacks {lacking}", file=sys.stderr)
        return 2
    with scratch() as folder:
        return failover(options.count, folder)


if __name__ == "__main__":
    sys.exit(main())
