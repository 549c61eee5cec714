"""Declares the Python interface of the native engine. `engine.h` describes the commands and records."""

from typing import Final, Self

COMMAND_ACCEPTED: Final[int]
COMMAND_ROUND_TRIP: Final[int]
COMMAND_CLOSE: Final[int]
COMMAND_UNTAP: Final[int]
COMMAND_ABORT: Final[int]
COMMAND_CLOSE_HISTOGRAM: Final[int]
COMMAND_PERMIT: Final[int]
COMMAND_UNLISTEN: Final[int]
COMMAND_RECALL: Final[int]
RECORD_PACKET: Final[int]
RECORD_VIOLATION: Final[int]
RECORD_REKEY_DUE: Final[int]
RECORD_LOST: Final[int]
RECORD_OPENED: Final[int]
RECORD_REFUSED: Final[int]
RECORD_TAP: Final[int]
RECORD_ENDED: Final[int]
RECORD_HISTOGRAM: Final[int]
RECORD_JOINED: Final[int]
RECORD_SERVED: Final[int]
RECORD_RETURNED: Final[int]
RECORD_STOPPED: Final[int]
RECORD_RPC: Final[int]
TAP_NONE: Final[int]
TAP_BYTES: Final[int]
TAP_RPC: Final[int]
ATTACH_MEASURE: Final[int]
ATTACH_UNIX: Final[int]
ATTACH_UNIX_BACKEND: Final[int]
RECORD_PAIR_ENDED: Final[int]
OPENSSL_VERSION: Final[str]

class Engine:
    """A native engine: one epoll loop and its thread.

    A token identifies a connection, channel, listener or pair of sockets. The engine owns each socket that is passed
    to it. Commands are asynchronous: the thread runs them in order.

    Args:
        bounds: Upper bounds of the buckets of all histograms, in seconds, in ascending order.
        growth_bytes: Limit, in bytes, on the growth of all receive windows together.
        dead_after: Break the connection of a remote end that acknowledges no data for this time, in milliseconds.

    Raises:
        OSError: The process has no file descriptors left.
    """

    def __new__(cls, bounds: tuple[float, ...], growth_bytes: int, dead_after: int, /) -> Self: ...
    def start(self) -> None:
        """Start the thread.

        Raises:
            OSError: The thread cannot be created, or is already running.
        """

    def close(self) -> None:
        """Stop the thread, reset all clients, and close all sockets. Other methods then raise ValueError."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` can return records.

        If the engine has no thread, the descriptor is readable when `turn` has work.
        """

    def turn(self) -> None:
        """Run the queued commands, and handle the events that have occurred. Only for tests, which start no thread.

        Raises:
            OSError: The thread is running.
        """

    def take(self) -> list[tuple[int, int, tuple[int, int, int, int], bytes]]:
        """Remove and return the records, oldest first. Each has a kind, a token, four arguments and a payload.

        Raises:
            OSError: Records were lost, or the thread has ended. The caller must close the engine.
            MemoryError: Memory was exhausted, and the records are lost. The caller must close the engine.
        """

    def token(self) -> int:
        """Return a new token. The caller must release it."""

    def release(self, token: int, /) -> None:
        """Free a token whose object has ended or was never created."""

    def gauge(self, token: int, /) -> tuple[int, int, int, float, float, int, bool]:
        """Return the counters and times of an object.

        Times are monotonic, in seconds. The list below omits the values that have no meaning for the object.

        - Channel or pair: the number of bytes to the backend, the number of bytes from the backend, the number of
          responses, the time of the last activity, the time of the pending request (0 if there is none), the number
          of buffered bytes, and whether the end of the backend's stream was forwarded to the client.
        - Connection: the second value is the number of bytes received since the last key exchange. The third is the
          number of channels. The fourth is the time at which data was last received.
        - Listener: the first value is the number of clients that use a permit. The second is the number of periods of
          about one second in which most new channels were opened on full SSH connections (see `full_load` in
          `listen`). The third is the number of clients that are connected to the target, but not reported to Python
          yet.

        Raises:
            KeyError: The token was released.
        """

    def inspect(self, token: int, /) -> dict[str, int] | None:
        """Return the internal state of a connection, channel, listener or pair, for tests; None if it has ended.

        The state does not include the effects of commands that are still queued.
        """

    def growth(self) -> int:
        """Return the number of bytes by which all receive windows together can still grow."""

    def connection(
        self,
        token: int,
        fd: int,
        seal: tuple[str, bytes, bytes, int],
        open_: tuple[str, bytes, bytes, int],
        max_packet_length: int,
        strict: bool,
        rekey_bytes: int,
        growth_bytes: int,
        max_window: int,
        adjust_bytes: int,
        /,
    ) -> None:
        """Take over the socket of an SSH connection after its login.

        Args:
            token: A new token.
            fd: The socket.
            seal: For sending: the name of the cipher, its key and nonce, and the sequence number of the next packet.
            open_: For receiving: the name of the cipher, its key and nonce, and the sequence number of the next
                packet.
            max_packet_length: Maximum length of a received packet.
            strict: Whether new keys reset the sequence numbers (strict key exchange).
            rekey_bytes: Number of bytes in one direction after which the native engine emits RECORD_REKEY_DUE.
            growth_bytes: Limit on the growth of the receive windows of this connection.
            max_window: Maximum receive window of a channel.
            adjust_bytes: Number of consumed bytes after which the native engine sends a window adjust, but at most a
                quarter of the window.
        """

    def key(self, token: int, sealing: bool, cipher: str, key: bytes, iv: bytes, /) -> None:
        """Replace a key of an SSH connection. Call this after NEWKEYS was sent or received.

        Args:
            token: The token of the connection.
            sealing: True to replace the key for sending, False to replace the key for receiving.
            cipher: The name of the cipher.
            key: The new key.
            iv: The nonce of the next packet; empty if the cipher needs none.
        """

    def send(self, token: int, packet: bytes, /) -> None:
        """Encrypt and send a packet that asyncssh has built: packet length, padding length, payload, padding."""

    def command(self, command: int, token: int, argument: int, /) -> None:
        """Queue a command with one argument.

        As soon as COMMAND_UNLISTEN is queued, the listener returns to Python each client that it still accepts.
        """

    def channel(
        self, token: int, connection: int, window: int, max_packet: int, tap: int, head: bytes, rest: bytes, /
    ) -> None:
        """Open a channel.

        Args:
            token: A new token.
            connection: The token of the connection.
            window: The initial receive window.
            max_packet: The maximum size of received packets.
            tap: `TAP_BYTES` to report the bytes as RECORD_TAP until COMMAND_UNTAP, `TAP_RPC` to report the headers of
                ONC RPC messages as RECORD_RPC, `TAP_NONE` to report nothing.
            head: The channel type, as in CHANNEL_OPEN.
            rest: The bytes of CHANNEL_OPEN after the maximum packet size.
        """

    def attach(self, token: int, fd: int, histogram: int, flags: int, /) -> None:
        """Connect a client to an open channel. `flags` is a combination of ATTACH_MEASURE and ATTACH_UNIX."""

    def pair(self, token: int, client: int, backend: int, histogram: int, flags: int, tap: int, /) -> None:
        """Relay bytes between two connected sockets until both directions have ended.

        Args:
            token: A new token.
            client: The client's socket.
            backend: The backend's socket.
            histogram: The histogram for response latency.
            flags: A combination of ATTACH_MEASURE, ATTACH_UNIX (of the client) and ATTACH_UNIX_BACKEND.
            tap: See `channel`.
        """

    def listen(
        self,
        token: int,
        fd: int,
        histogram: int,
        open_histogram: int,
        permits: int,
        min_window: int,
        window: int,
        max_packet: int,
        full_load: int,
        tap: bool,
        min_responses: int,
        connections: bytes,
        networks: bytes,
        head: bytes,
        rest: bytes,
        /,
    ) -> None:
        """Accept clients, and connect each client to a new channel.

        Args:
            token: A new token.
            fd: A listening TCP socket, non-blocking.
            histogram: The histogram for response latency.
            open_histogram: The histogram for the times from accepting a client to connecting it to the target.
            permits: Number of clients to accept. COMMAND_PERMIT permits more.
            min_window: The initial receive window of a channel if the limits on window growth do not permit `window`.
            window: The initial receive window of a channel if the limits on window growth permit it.
            max_packet: The maximum size of received packets.
            full_load: Number of channels at which an SSH connection counts as full. See `gauge`.
            tap: Whether to report the bytes as RECORD_TAP, until COMMAND_UNTAP.
            min_responses: RECORD_SERVED does not include a client with fewer responses. RECORD_JOINED reports this
                client.
            connections: Tokens of the connections, as native unsigned 64-bit integers.
            networks: Networks that are allowed to connect; empty to allow all. Each consists of the size of the
                address in bytes (one byte), the length of the prefix in bits (one byte), and the address (16 bytes,
                padded at the end).
            head: The channel type, as in CHANNEL_OPEN.
            rest: The bytes of CHANNEL_OPEN after the maximum packet size.
        """

    def listen_and_dial(
        self,
        token: int,
        fd: int,
        histogram: int,
        open_histogram: int,
        permits: int,
        tap: bool,
        min_responses: int,
        host: bytes,
        port: int,
        scope: int,
        networks: bytes,
        options: bytes,
        /,
    ) -> None:
        """Accept clients. Connect a new socket to the target for each client, and relay bytes as `pair` does.

        Args:
            token: See `listen`.
            fd: See `listen`.
            histogram: See `listen`.
            open_histogram: See `listen`.
            permits: See `listen`.
            tap: See `listen`.
            min_responses: See `listen`.
            host: The IP address of the target: 4 or 16 bytes.
            port: The port of the target.
            scope: The interface index of the zone (RFC 4007) of an IPv6 address; 0 if `host` has no zone.
            networks: See `listen`.
            options: Options for the sockets that connect to the target: for each option, the level, the name and the
                value, as native 32-bit integers.

        Raises:
            ValueError: `host` is not an IP address.
        """
