"""Encodes the target of an SSH channel for a CHANNEL_OPEN request."""

from asyncssh.packet import String, UInt32

_ORIGIN = String("127.0.0.1") + UInt32(0)
_STREAMLOCAL_RESERVED = String("") + UInt32(0)


def channel_target(host: str, port: int) -> tuple[bytes, bytes]:
    """Return the parts of CHANNEL_OPEN that identify a TCP port or a unix socket (RFC 4254, section 7.2).

    The parts are the channel type, and the bytes that follow the field `maximum packet size`.

    Args:
        host: A host name or address. A value that begins with a slash is the path of a unix socket (OpenSSH's
            PROTOCOL, section 2.4).
        port: The TCP port; ignored for a unix socket.
    """
    unix = host.startswith("/")
    channel_type = b"direct-streamlocal@openssh.com" if unix else b"direct-tcpip"
    return String(channel_type), String(host) + (_STREAMLOCAL_RESERVED if unix else UInt32(port) + _ORIGIN)
