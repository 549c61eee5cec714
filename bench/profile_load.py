"""Profile the gateway under load: python bench/profile_load.py [up|down|pp|conn] [SECONDS].

The load is uploads (`up`), downloads (`down`), round trips (`pp`, ping-pong) or new connections (`conn`).

Runs the service under cProfile, which makes the service several times slower. Therefore, compare the functions'
shares of the time, not the seconds.
"""

import contextlib
import cProfile
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from site_paths import LOAD, build

from gateway.app import service
from gateway.config import ConfigSources, load
from gateway.contracts.config_types import HostPort
from gateway.demo.server_process import ServerProcess, free_port
from gateway.demo.sshd import Bastion

MODES = {
    "up": ["8", "4000000000"],
    "down": ["8", "4000000000"],
    "pp": ["64", "200", "4096", "600"],
    "conn": ["64", "1000000"],
}


def main(mode: str, seconds: float) -> None:
    """Profile one kind of load, and print the forty functions with the most own time.

    The own time (`tottime`) of a function does not include the functions that it calls.
    """
    build()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        bastion = Bastion(folder / "bastion").start()
        stack.callback(bastion.stop)
        target, listen = free_port(), free_port()
        server = ServerProcess([str(LOAD), "serve", str(target)], folder / "load.log")
        server.start(target)
        stack.callback(server.stop)
        keys = f"identity_files={bastion.client_key}&known_hosts={bastion.known_hosts}"
        config = load(
            ConfigSources(
                tunnels=(f"b=ssh://{bastion.user}@127.0.0.1:{bastion.port}?{keys}",),
                backends=(f"x=tcp://127.0.0.1:{target}?via=b&listen=127.0.0.1:{listen}&check.interval=1h",),
                settings={
                    "ops-listen": f"127.0.0.1:{free_port()}",
                    "ops-admin-socket": f"{folder}/admin.sock",
                    "shutdown-delay": "0s",
                    "shutdown-drain": "0s",
                },
                environment={},
            )
        )

        def press(_: HostPort) -> None:
            threading.Thread(target=_press, args=(mode, listen, seconds), daemon=True).start()

        profile = cProfile.Profile()
        profile.runcall(service.run, config, lambda: config, press)
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def _press(mode: str, port: int, seconds: float) -> None:
    time.sleep(0.5)
    with subprocess.Popen([str(LOAD), mode, str(port), *MODES[mode]], stdout=subprocess.DEVNULL) as client:
        time.sleep(seconds)
        client.kill()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pp", float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
