"""Describes why a request to a member failed, and what the user can do. Does no I/O."""

import errno
import os
import re
import socket
import ssl

import aiohttp

from gateway.fleet.member_addresses import Member
from gateway.text_sanitizer import one_line

_STATUS_ERRORS = {
    401: "a token is required: set fleet.token_file (gateway fleet --token-file)",
    403: "the token is not accepted: use the token of the member's ops.token_file",
    404: "the server is not a gateway, or its version is too old",
    421: "the member does not accept this host name: add it to the member's ops.hosts",
}
_REMEDIES = {
    errno.ECONNREFUSED: "start the gateway there, or correct the address of the member",
    errno.EHOSTUNREACH: "correct the address of the member, or the IP route to it",
    errno.ENETUNREACH: "correct the address of the member, or the IP route to it",
    errno.EMFILE: "raise the limit on open files of this process",
}
_OTHER_REMEDY = "check the address of the member, and firewalls between this host and the member"
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def describe_timeout(seconds: float) -> str:
    """Return the error message for a member that does not respond.

    Args:
        seconds: The time limit for one request.
    """
    return f"no response within {seconds:g} s: {_OTHER_REMEDY}"


def describe_status(status: int) -> str:
    """Return the error message for an HTTP status other than 200."""
    if 300 <= status < 400:
        known = "the server redirects, and redirects are not followed: use the address of ops.listen"
    else:
        known = _STATUS_ERRORS.get(status, "read the log of the member")
    return f"status {status}: {known}"


def describe_lookup(error: OSError | UnicodeError) -> str:
    """Return the error message for a host name that does not resolve."""
    if isinstance(error, UnicodeError):
        return "the host name is not valid: correct the address of the member"
    text = one_line(error.strerror or str(error))
    return f"{text}: correct the host name, or the DNS settings of the gateway's host"


def describe(error: aiohttp.ClientError | OSError | UnicodeError, member: Member) -> str:
    """Return the error message for a failed request to a member.

    Args:
        error: The exception that the connection or the HTTP client raised.
        member: The member. The remedy in the message depends on the member's scheme (`http` or `https`).
    """
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLError):
        return _describe_tls(cause)
    if isinstance(cause, (socket.gaierror, UnicodeError)):
        return describe_lookup(cause)
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the response is not HTTP: {_correct_port(member)}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection ended in the middle of the response: read the log of the member"
    # aiohttp connects through aiohappyeyeballs. If several addresses fail with different errors, aiohappyeyeballs
    # raises one error, which contains the errno values only in its message.
    number = getattr(cause, "errno", None)
    numbers = [number] if number else [int(each) for each in _NUMBER.findall(str(cause))]
    closed = isinstance(cause, (aiohttp.ServerDisconnectedError, ConnectionResetError))
    if closed or errno.ECONNRESET in numbers:
        return f"the server closed the connection without a response: {_correct_port(member)}"
    text = ", ".join(dict.fromkeys(map(os.strerror, numbers))) or one_line(str(cause)) or type(cause).__name__
    remedy = next((_REMEDIES[each] for each in numbers if each in _REMEDIES), _OTHER_REMEDY)
    return f"{text}: {remedy}"


def _describe_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "set fleet.tls.ca_file (gateway fleet --ca-file) to the authority that signed it"
        if "mismatch" in error.verify_message:
            remedy = "use a name in the certificate as the address of the member"
        elif "expired" in error.verify_message:
            remedy = "renew the member's ops.tls.cert_file"
        return f"the certificate is not trusted ({one_line(error.verify_message).rstrip('.')}): {remedy}"
    reason = one_line(error.reason or str(error)).replace("_", " ").lower()
    return f"the TLS handshake failed ({reason}): check the port, and that the member has ops.tls"


def _correct_port(member: Member) -> str:
    """Return the remedy for a server that closes the connection without a response, or does not reply in HTTP."""
    if member.scheme == "http":
        return "use the port of the member's ops.listen, and https:// if it has ops.tls"
    return (
        "use the port of the member's ops.listen. If the member requires a client certificate, set"
        " fleet.tls.cert_file"
    )
