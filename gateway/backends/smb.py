"""`kind: smb`: a share of SMB 2 or 3, asked for the protocol that it speaks ([MS-SMB2]); nothing is ever mounted."""

import asyncio
import secrets
import struct
from dataclasses import dataclass

from gateway.backends import BackendKind, NoOptions
from gateway.backends.common.volume import VolumeOptions, VolumeSpec, reached_at, volume_of
from gateway.contracts import Duration, Endpoint, Link, Phases, ProbeResult, Stream
from gateway.errors import ProbeError, Reason

_HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
"""[MS-SMB2] 2.2.1.2."""
_MAGIC = b"\xfeSMB"
_NEGOTIATE = 0
_NOT_SUPPORTED = 0xC00000BB
"""STATUS_NOT_SUPPORTED: it speaks none of the dialects that were offered (3.3.5.4)."""
_DIALECTS = {0x0202: "2.0.2", 0x0210: "2.1", 0x0300: "3.0", 0x0302: "3.0.2"}
_SIGNING_ENABLED = 1
_FIXED = struct.Struct("<HHHH16s")
"""The beginning of a negotiate response: structure size, security mode, dialect, contexts, server GUID (2.2.4)."""
_MAX_ANSWER = 64 * 1024


@dataclass(frozen=True)
class SmbOptions:
    """What only an SMB backend has.

    Args:
        share: The share's name.
        volume: A Docker volume that leads to it, kept by the gateway, for shares that let guests in: the kernel
            reads no file with credentials, and a volume's options are for everybody to see.
    """

    share: str
    volume: VolumeOptions | None = None


@dataclass(frozen=True)
class SmbBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: The share.
        check: None of its own.
    """

    options: SmbOptions
    check: NoOptions

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> ProbeResult:
        """Negotiate a dialect: there is an SMB server, and it answers. Who may use the share it does not tell."""
        with await link.socket(target, phases) as sock:
            try:
                with phases("greeting"):
                    answer = await _negotiate(sock)
            except _NewerError:
                return ProbeResult(version="SMB newer than 3.0.2")
            except OSError as error:
                raise ProbeError(Reason.RESET, str(error)) from error
        _, mode, dialect, _, guid = _FIXED.unpack_from(answer, _HEADER.size)
        if dialect not in _DIALECTS:
            raise ProbeError(Reason.PROTOCOL, f"it chose the dialect {dialect:#06x}, which was not offered")
        signing = ", signing required" if mode & 2 else ""
        return ProbeResult(version=f"SMB {_DIALECTS[dialect]}{signing}", identity=guid.hex())


class _NewerError(Exception):
    """The server is well, and speaks newer dialects only: 3.1.1 would have to be asked for in another way."""


async def _negotiate(sock: Stream) -> bytes:
    loop = asyncio.get_running_loop()
    header = _HEADER.pack(_MAGIC, 64, 0, 0, _NEGOTIATE, 1, 0, 0, 0, 0, 0, 0, bytes(16))
    body = struct.pack(
        f"<HHHHI16sQ{len(_DIALECTS)}H",
        36, len(_DIALECTS), _SIGNING_ENABLED, 0, 0, secrets.token_bytes(16), 0, *_DIALECTS,
    )  # fmt: skip
    # Direct TCP transport: a zero byte and the length in three ([MS-SMB2] 2.1).
    await loop.sock_sendall(sock, struct.pack(">I", len(header) + len(body)) + header + body)
    length = int.from_bytes(await _exactly(sock, 4), "big")
    if not _HEADER.size <= length <= _MAX_ANSWER:
        raise ProbeError(Reason.PROTOCOL, f"not an SMB server: an answer of {length} bytes")
    answer = await _exactly(sock, length)
    magic, size, _, status, command = _HEADER.unpack_from(answer)[:5]
    if magic != _MAGIC or size != _HEADER.size or command != _NEGOTIATE:
        raise ProbeError(Reason.PROTOCOL, "not an SMB 2 server")
    if status == _NOT_SUPPORTED:
        raise _NewerError
    if status != 0:
        raise ProbeError(Reason.PROTOCOL, f"the server refuses to negotiate (NTSTATUS {status:#010x})")
    if length < _HEADER.size + _FIXED.size:
        raise ProbeError(Reason.PROTOCOL, f"not an SMB server: an answer of {length} bytes")
    return answer


async def _exactly(sock: Stream, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        data += piece
    return bytes(data)


def _volume(options: SmbOptions, listener: Endpoint) -> VolumeSpec | None:
    wanted = options.volume
    if wanted is None:
        return None
    device = f"//{reached_at(wanted, listener)}/{options.share}"
    return volume_of(wanted, listener, "cifs", options.share, device, ("vers=3.0", "hard", "sec=none"))


KIND = BackendKind(
    "smb",
    SmbOptions,
    NoOptions,
    SmbBackend,
    scheme="smb",
    default_port=445,
    hold=Duration(60.0),
    bulk=True,
    volume=_volume,
)
