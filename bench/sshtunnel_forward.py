"""Forward a local port with the package `sshtunnel`: python sshtunnel_forward.py SSH_PORT USER KEY LISTEN TO."""

import sys
import threading

from sshtunnel import SSHTunnelForwarder


def main(ssh_port: int, user: str, key: str, listen: int, to: int) -> None:
    """Forward connections until the process is killed."""
    with SSHTunnelForwarder(
        ("127.0.0.1", ssh_port),
        ssh_username=user,
        ssh_pkey=key,
        local_bind_address=("127.0.0.1", listen),
        remote_bind_address=("127.0.0.1", to),
    ):
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
