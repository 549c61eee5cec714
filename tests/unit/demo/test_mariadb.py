import gc
import socket
from pathlib import Path

import pytest

from gateway.demo.mariadb import MariaDB


def test_a_failed_attempt_to_connect_leaves_no_open_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # as root, MariaDB() would change the owner of the folder
    server, waits = MariaDB(tmp_path), []
    with socket.socket(socket.AF_UNIX) as listener:

        def listen(seconds: float) -> None:
            waits.append(seconds)
            listener.bind(str(tmp_path / "mysql.sock"))
            listener.listen()

        monkeypatch.setattr("time.sleep", listen)
        server._connect().close()
    assert len(waits) == 1
    gc.collect()  # a socket that is still open causes a ResourceWarning, which fails the test
