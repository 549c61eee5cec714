"""Requests the summary of one member of the fleet over HTTP."""

import asyncio
import socket
import ssl
from dataclasses import dataclass, field
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.errors import GatewayError, TunnelError
from gateway.fleet.error_descriptions import describe, describe_status, describe_timeout
from gateway.fleet.host_name_lookup import lookup
from gateway.fleet.member_addresses import Member
from gateway.fleet.options import FleetOptions
from gateway.fleet.summary import MAX_BYTES, MemberSummary, decode_summary
from gateway.secret_files import read_private_key
from gateway.text_sanitizer import one_line

PATH = "/api/v1/summary"


class MemberRequestError(GatewayError):
    """A member did not respond, or its response is not valid."""


@dataclass(frozen=True)
class MemberCredentials:
    """The bearer token and the TLS context for requests to members.

    `token` is None if requests contain no token. `tls` is None if the default TLS settings apply.
    """

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


def read_credentials(options: FleetOptions) -> MemberCredentials:
    """Read the token and the certificates for requests to members from the configured files. The call blocks.

    Args:
        options: The section `fleet` of the configuration, with the paths of the files.

    Raises:
        GatewayError: A file cannot be read, is not valid, or contains a secret that other users can read.
    """
    token, path = None, options.token_file
    if path is not None:
        try:
            token = read_private_key(path, "token").decode("ascii", "replace").strip()
        except TunnelError as error:
            raise GatewayError(f"fleet.token_file: {error}") from error
        if not token or not all("!" <= each <= "~" for each in token):
            raise GatewayError(f"fleet.token_file: {path}: must contain one token of visible ASCII characters")
    try:
        return MemberCredentials(token, options.tls.context() if options.tls.is_set else None)
    except GatewayError as error:
        raise GatewayError(f"fleet.tls.{error}") from error


class MemberClient:
    """Requests the summaries of members. As an asynchronous context manager, it closes all connections on exit.

    Args:
        timeout: Time limit in seconds for one request, from the name lookup to the last byte of the response.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.credentials = MemberCredentials()

    async def __aenter__(self) -> Self:
        # Close each connection after its response (`force_close`). On idle connections, aiohttp buffers unlimited
        # data, so a member could exhaust the memory.
        connector = aiohttp.TCPConnector(limit=0, resolver=_MemberResolver(), force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=MAX_BYTES // 2,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, member: Member) -> MemberSummary:
        """Request and return the summary of a member.

        Redirects are errors, because the token must be sent only to configured addresses.

        Raises:
            MemberRequestError: The member does not respond in time, or its response is not valid.
        """
        try:
            async with asyncio.timeout(self.timeout):
                return decode_summary(await self._get(member))
        except TimeoutError:
            raise MemberRequestError(describe_timeout(self.timeout)) from None
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            raise MemberRequestError(describe(error, member)) from error
        except ValueError as error:
            raise MemberRequestError(one_line(str(error))) from error

    async def _get(self, member: Member) -> bytes:
        token, tls = self.credentials.token, self.credentials.tls
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        use_tls = member.scheme == "https"
        async with self._session.get(
            member.url(PATH),
            headers=headers,
            allow_redirects=False,
            ssl=tls if use_tls and tls is not None else True,
            server_hostname=member.server_name if use_tls else None,
        ) as response:
            if response.status != 200:
                raise MemberRequestError(describe_status(response.status))
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise MemberRequestError(f"the response is larger than {MAX_BYTES} bytes")
            return bytes(body)


class _MemberResolver(AbstractResolver):
    """An aiohttp resolver for the host names of members. Simultaneous requests for the same name share one lookup."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await lookup(host, port, family)
        return [
            ResolveResult(
                hostname=host, host=address[0], port=port, family=each, proto=0, flags=socket.AI_NUMERICHOST
            )
            for each, address in found
        ]

    async def close(self) -> None:
        """Do nothing. Do not cancel lookups, because other resolvers may wait for the same lookups."""
