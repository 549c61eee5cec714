import gc
import socket
import threading
from pathlib import Path

import pytest

from gateway.demo.mariadb import MariaDB


def test_failed_attempts_to_connect_leave_no_open_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # prevent the change of the folder's owner
    path = tmp_path / "mysql.sock"
    with socket.socket(socket.AF_UNIX) as listener:

        def listen() -> None:
            listener.bind(str(path))
            listener.listen()

        timer = threading.Timer(0.3, listen)
        timer.start()
        MariaDB(tmp_path)._connect().close()
        timer.join()
    gc.collect()  # pytest reports the ResourceWarning of an unclosed socket
