"""Implements an NFSv4.1 session (RFC 8881) without open files, for servers that do not support NFSv4.0."""

import secrets

from gateway.nfs.xdr import XdrError, XdrReader, opaque, uhyper, uint

EXCHANGE_ID, CREATE_SESSION, SEQUENCE = 42, 43, 53
NFS4ERR_BADSESSION, NFS4ERR_STALE_CLIENTID, NFS4ERR_DEADSESSION = 10052, 10022, 10078
NFS4ERR_SEQ_MISORDERED, NFS4ERR_CONN_NOT_BOUND = 10063, 10055
SESSION_LOST = {
    NFS4ERR_BADSESSION, NFS4ERR_STALE_CLIENTID, NFS4ERR_DEADSESSION, NFS4ERR_SEQ_MISORDERED, NFS4ERR_CONN_NOT_BOUND,
}  # fmt: skip
"""NFS errors after which the client must create a new session."""
_SESSION_ID_SIZE = 16
_VERIFIER_SIZE = 8
_MAX_SIZE = 1 << 20
_MAX_OPERATIONS = 32
_CALLBACK_PROGRAM = 0x40000000
"""The program number for callbacks, from the range for transient use (RFC 5531, section 8.4.2). The protocol requires
this number, although the gateway accepts no callbacks."""


class Nfs41Session:
    """Encodes the requests and decodes the replies for one NFSv4.1 session. Does no I/O.

    Args:
        owner: The client owner, which identifies this client to the server. The server discards the state of an
            earlier client with the same owner (RFC 8881, section 2.4).
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner.encode()
        self._verifier = secrets.token_bytes(_VERIFIER_SIZE)
        self.session_id = b""
        """The session ID that the server assigned; empty before the call of `read_create_session`."""
        self._client_id = 0
        self._client_sequence = 0
        self._slot_sequence = 0

    # Each of the following methods returns the encoded arguments of an operation.

    def exchange_id_arguments(self) -> bytes:
        """Return the arguments of EXCHANGE_ID. They request no state protection, and contain no implementation ID."""
        return self._verifier + opaque(self._owner) + uint(0) + uint(0) + uint(0)

    def create_session_arguments(self) -> bytes:
        """Return the arguments of CREATE_SESSION. They request one slot, which permits one request at a time."""
        channel = b"".join(map(uint, (0, _MAX_SIZE, _MAX_SIZE, 4096, _MAX_OPERATIONS, 1, 0)))
        callbacks = uint(_CALLBACK_PROGRAM) + uint(1) + uint(0)
        return uhyper(self._client_id) + uint(self._client_sequence) + uint(0) + channel + channel + callbacks

    def sequence_arguments(self) -> bytes:
        """Return the arguments of SEQUENCE for the next request. Each call increments the slot's sequence number."""
        self._slot_sequence += 1
        return self.session_id + uint(self._slot_sequence) + uint(0) + uint(0) + uint(0)

    # Each of the following methods reads the results that follow the status of an operation.

    def read_exchange_id(self, reply: XdrReader) -> None:
        """Read the results of EXCHANGE_ID, and store the client ID for CREATE_SESSION."""
        self._client_id = reply.uhyper()
        self._client_sequence = reply.uint()

    def read_create_session(self, reply: XdrReader) -> None:
        """Read the results of CREATE_SESSION, and store the session ID."""
        self.session_id = reply.fixed(_SESSION_ID_SIZE)
        self._slot_sequence = 0

    def read_sequence(self, reply: XdrReader) -> None:
        """Read the results of SEQUENCE.

        Raises:
            XdrError: The results belong to another session.
        """
        if reply.fixed(_SESSION_ID_SIZE) != self.session_id:
            raise XdrError("the reply belongs to another session")
        for _ in range(5):
            reply.uint()
