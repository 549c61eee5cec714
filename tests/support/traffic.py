"""Sends known data through a tunnel, and checks the received data. The tunnel runs in another process.

traffic.py serve PORT                 Run the server for the other commands.
traffic.py both-directions PORT SIZE  Send and receive SIZE bytes at the same time. Print the duration in seconds.
traffic.py echoes PORT COUNT half     Open COUNT connections at the same time. On each connection, send data,
                                      half-close, and receive the same data. Print the duration in seconds.
traffic.py echoes PORT COUNT whole    Do the same as with `half`, but do not half-close.
traffic.py ask PORT                   Send a request and half-close. Print `kept` if the response arrives; otherwise,
                                      print `lost`.
traffic.py endless PORT COUNT         Open COUNT connections that receive data endlessly; half of them also send
                                      data. Print `flowing` when all connections have received data. When the
                                      connections have ended, print for each whether the end was a reset.

A client fails if it receives wrong data. Each socket has a timeout.
"""

import contextlib
import functools
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_HEAD = struct.Struct(">cQ")
"""The format of a client's request: an action, and a size in bytes."""
_COUNT = struct.Struct(">Q")
"""The format of the server's reply to `BOTH_DIRECTIONS`: the return value of `receive`."""
BOTH_DIRECTIONS, ENDLESS, ECHO, ECHO_COUNTED, ASK = b"B", b"F", b"E", b"C", b"A"
_PERIOD = 1_000_003
"""The number of bytes after which a stream repeats. It is a prime, so that clients detect lost packets."""
_PIECE = 256 * 1024
_PATIENCE = 50.0
_FLOWING = 1 << 20


@functools.cache
def cycle(seed: int) -> bytes:
    """Return the first `2 * _PERIOD` bytes of the endless stream that the random seed defines."""
    return random.Random(seed).randbytes(_PERIOD) * 2


UP, DOWN = 1, 2
"""The random seeds of the stream to the server and of the stream to the client."""


def send(sock: socket.socket, seed: int, size: int) -> None:
    """Send the first `size` bytes of the stream that the random seed defines."""
    stream, at = memoryview(cycle(seed)), 0
    while at < size:
        begin = at % _PERIOD
        piece = stream[begin : begin + min(_PIECE, size - at)]
        sock.sendall(piece)
        at += len(piece)


def receive(sock: socket.socket, seed: int, size: int) -> int:
    """Receive exactly `size` bytes, and compare them with the stream that the random seed defines.

    Returns:
        `size` if all bytes are correct; otherwise, the start of the piece with the first wrong byte.

    Raises:
        EOFError: The stream ended before `size` bytes.
    """
    # A comparison needs much less processor time than a digest.
    stream, room, at, wrong = cycle(seed), memoryview(bytearray(_PIECE)), 0, size
    while at < size:
        count = sock.recv_into(room, min(size - at, _PIECE))
        if not count:
            raise EOFError(f"a clean end before the last {size - at} bytes")
        if not stream.startswith(room[:count], at % _PERIOD):
            wrong = min(wrong, at)
        at += count
    return wrong


def exactly(sock: socket.socket, size: int) -> bytes:
    """Receive and return exactly `size` bytes.

    Raises:
        EOFError: The stream ended before `size` bytes.
    """
    got = b""
    while len(got) < size:
        piece = sock.recv(size - len(got))
        if not piece:
            raise EOFError(f"a clean end after {len(got)} of {size} bytes")
        got += piece
    return got


def answer(client: socket.socket) -> None:
    """Read the request of a client, and perform the requested action."""
    with client, contextlib.suppress(OSError, EOFError):
        client.settimeout(_PATIENCE)
        wanted, size = _HEAD.unpack(exactly(client, _HEAD.size))
        if wanted == BOTH_DIRECTIONS:
            with ThreadPoolExecutor(1) as other:
                sending = other.submit(send, client, DOWN, size)
                correct = receive(client, UP, size)
                sending.result()
            client.sendall(_COUNT.pack(correct))
        elif wanted == ENDLESS:
            threading.Thread(target=_swallow, args=(client,), daemon=True).start()
            send(client, DOWN, 1 << 62)
        elif wanted == ASK:
            while client.recv(_PIECE):
                pass
            client.sendall(b"answer")
        else:
            left = size if wanted == ECHO_COUNTED else 1 << 62
            while left and (data := client.recv(min(left, _PIECE))):
                client.sendall(data)
                left -= len(data)


def _swallow(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while client.recv(_PIECE):
            pass


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=answer, args=(client,), daemon=True).start()


def connected(port: int, wanted: bytes, size: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
    sock.sendall(_HEAD.pack(wanted, size))
    return sock


def both_directions(port: int, size: int) -> None:
    started = time.monotonic()
    with connected(port, BOTH_DIRECTIONS, size) as sock, ThreadPoolExecutor(1) as other:
        sending = other.submit(send, sock, UP, size)
        down = receive(sock, DOWN, size)
        sending.result()
        (up,) = _COUNT.unpack(exactly(sock, _COUNT.size))
        took = time.monotonic() - started
        end = sock.recv(1)
    if (down, up, end) != (size, size, b""):
        raise SystemExit(f"of {size} bytes, a wrong piece begins at: down {down}, up {up}; end {end!r}")
    print(took)  # noqa: T201


def echoes(port: int, count: int, *, half: bool) -> None:
    started = time.monotonic()
    opened = threading.Barrier(count)

    def one(seed: int) -> None:
        rng = random.Random(seed)
        payload = rng.randbytes(rng.randint(2, 100_000))
        try:
            with connected(port, ECHO if half else ECHO_COUNTED, len(payload)) as sock:
                sock.sendall(payload[:1])
                got = exactly(sock, 1)
                opened.wait(_PATIENCE)
                saying = threading.Thread(target=_say, args=(sock, payload[1:], half))
                saying.start()
                got += exactly(sock, len(payload) - 1) + sock.recv(1)
                saying.join()
        except BaseException:
            opened.abort()
            raise
        if got != payload:
            raise SystemExit(f"connection {seed}: another echo")

    with ThreadPoolExecutor(count) as many:
        for _ in many.map(one, range(count)):
            pass
    print(time.monotonic() - started)  # noqa: T201


def _say(sock: socket.socket, payload: bytes, half: bool) -> None:
    sock.sendall(payload)
    if half:
        sock.shutdown(socket.SHUT_WR)


def ask(port: int) -> None:
    with connected(port, ASK, 0) as sock:
        _say(sock, b"question", True)
        got = b""
        while data := sock.recv(_PIECE):
            got += data
    print({b"answer": "kept", b"": "lost"}[got])  # noqa: T201


def endless(port: int, count: int) -> None:
    flowing = threading.Barrier(count, lambda: print("flowing", flush=True))  # noqa: T201

    def one(number: int) -> str:
        with connected(port, ENDLESS, 0) as sock, ThreadPoolExecutor(1) as other:
            # Half of the clients send nothing, to detect whether the gateway closes connections without a reset. The
            # other clients cannot detect this: the kernel sends a reset when a socket with unread data is closed.
            pushing = other.submit(send, sock, UP, (number % 2) << 62)
            end = watch(sock, lambda: flowing.wait(_PATIENCE))
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            # The kernel reports a reset only once, either to this thread or to the thread that sends.
            return "reset" if isinstance(pushing.exception(), ConnectionResetError) else end

    with ThreadPoolExecutor(count) as many:
        print(*many.map(one, range(count)))  # noqa: T201


def watch(sock: socket.socket, flows: Callable[[], object]) -> str:
    """Check the received data until the connection ends; return `reset`, or `clean-end-after-` with a byte count.

    Args:
        sock: The connection.
        flows: A function that is called after the first MiB.
    """
    stream, at, room = cycle(DOWN), 0, memoryview(bytearray(_PIECE))
    while True:
        try:
            count = sock.recv_into(room)
        except ConnectionResetError:
            return "reset"
        if not count:
            return f"clean-end-after-{at}"
        if not stream.startswith(room[:count], at % _PERIOD):
            raise SystemExit(f"another byte within {count} at {at}")
        before, at = at, at + count
        if before < _FLOWING <= at:
            flows()


if __name__ == "__main__":
    verb, port_, *rest = sys.argv[1:]
    match verb:
        case "serve":
            serve(int(port_))
        case "both-directions":
            both_directions(int(port_), int(rest[0]))
        case "echoes":
            echoes(int(port_), int(rest[0]), half=rest[1] == "half")
        case "ask":
            ask(int(port_))
        case "endless":
            endless(int(port_), int(rest[0]))
