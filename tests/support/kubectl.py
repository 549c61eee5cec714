"""Simulates `kubectl port-forward`: prints the lines that kubectl prints, and forwards connections to 127.0.0.1.

Usage: `kubectl.py port-forward --address=ADDRESS service/NAME LOCAL:REMOTE`
"""

import socket
import sys
import threading


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy data from `source` to `sink` until `source` sends a FIN. Then send a FIN on `sink`."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()


def main(address: str, ports: str) -> None:
    """Accept connections until the process is killed."""
    local, remote = map(int, ports.split(":"))
    with socket.create_server((address, local)) as listener:
        say(f"Forwarding from {address}:{local} -> {remote}")
        while True:
            client, _ = listener.accept()
            say(f"Handling connection for {local}")
            server = socket.create_connection(("127.0.0.1", remote))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=copy, args=ends, daemon=True).start()


if __name__ == "__main__":
    assert sys.argv[1] == "port-forward", sys.argv
    assert sys.argv[3].startswith("service/"), sys.argv
    main(sys.argv[2].removeprefix("--address="), sys.argv[4])
