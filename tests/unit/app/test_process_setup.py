"""Tests `gateway.app.process_setup`, in a separate process, because it changes the whole process."""

import subprocess
import sys

_SCRIPT = """
import gc, resource
gc.disable()
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from gateway.app.process_setup import prepare_process
prepare_process()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print(gc.isenabled(), gc.get_freeze_count() > 10_000, gc.get_threshold()[0] > 10_000, soft == hard)
"""


def test_the_garbage_collector_ignores_the_objects_of_the_start_and_all_descriptors_are_usable() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True"] * 4
