"""Tests `gateway.app.process_setup`, in a separate process, because it changes the whole process."""

import subprocess
import sys

_SCRIPT = """
import gc, resource
gc.disable()
from gateway.app.process_setup import prepare_process
prepare_process()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print(gc.isenabled(), gc.get_freeze_count() > 10_000, soft == hard)
"""


def test_the_garbage_collector_runs_and_ignores_the_objects_of_the_start() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
