"""A session of NFSv4.1 (RFC 8881), for servers that do not speak 4.0: kept over many probes, one slot, no state."""

import secrets

from gateway.nfs.xdr import Reader, XdrError, opaque, uhyper, uint

EXCHANGE_ID, CREATE_SESSION, SEQUENCE = 42, 43, 53
NFS4ERR_BADSESSION, NFS4ERR_STALE_CLIENTID, NFS4ERR_DEADSESSION = 10052, 10022, 10078
NFS4ERR_SEQ_MISORDERED, NFS4ERR_CONN_NOT_BOUND = 10063, 10055
LOST = {
    NFS4ERR_BADSESSION, NFS4ERR_STALE_CLIENTID, NFS4ERR_DEADSESSION, NFS4ERR_SEQ_MISORDERED, NFS4ERR_CONN_NOT_BOUND,
}  # fmt: skip
"""What a server says of a session that it does not know any more: another one is made."""
_SESSION_ID = 16
_VERIFIER = 8
_MAX_SIZE = 1 << 20
_OPERATIONS = 32
_CALLBACK_PROGRAM = 0x40000000
"""Of those for transient use (RFC 5531, section 8.4.2); we offer no callbacks."""


class Session:
    """What has to be remembered of one.

    Args:
        owner: Our name to the server: it replaces what it remembers of an earlier life under the same name.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner.encode()
        self._verifier = secrets.token_bytes(_VERIFIER)
        self.identifier = b""
        """Given by the server; empty before that."""
        self._client = 0
        self._client_sequence = 0
        self._sequence = 0

    # Requests: the arguments of one operation each.

    def exchange_id(self) -> bytes:
        """Who we are: no state protection, no implementation to tell."""
        return self._verifier + opaque(self._owner) + uint(0) + uint(0) + uint(0)

    def create_session(self) -> bytes:
        """One slot forth, one back that is never used."""
        channel = b"".join(map(uint, (0, _MAX_SIZE, _MAX_SIZE, 4096, _OPERATIONS, 1, 0)))
        callbacks = uint(_CALLBACK_PROGRAM) + uint(1) + uint(0)
        return uhyper(self._client) + uint(self._client_sequence) + uint(0) + channel + channel + callbacks

    def sequence(self) -> bytes:
        """The next request on the only slot."""
        self._sequence += 1
        return self.identifier + uint(self._sequence) + uint(0) + uint(0) + uint(0)

    # Answers: the reader stands behind the operation's status.

    def exchanged(self, reply: Reader) -> None:
        """Take over what the server answered to EXCHANGE_ID."""
        self._client = reply.uhyper()
        self._client_sequence = reply.uint()

    def created(self, reply: Reader) -> None:
        """Take over what the server answered to CREATE_SESSION."""
        self.identifier = reply.fixed(_SESSION_ID)
        self._sequence = 0

    def sequenced(self, reply: Reader) -> None:
        """Check what the server answered to SEQUENCE.

        Raises:
            XdrError: It is about another session.
        """
        if reply.fixed(_SESSION_ID) != self.identifier:
            raise XdrError("the answer belongs to another session")
        for _ in range(5):
            reply.uint()
