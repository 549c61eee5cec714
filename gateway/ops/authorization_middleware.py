"""Implements the aiohttp middleware that checks Host headers and authorization, and limits the request rate."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping

from aiohttp import web

from gateway.ops.authorization import AccessRole, AccessRules, BearerTokens, granted_role, is_accepted_host
from gateway.ops.rate_limiter import RateLimiter

_ROLE = web.RequestKey("role", AccessRole)
_CURRENT_ROLE = web.RequestKey[Callable[[web.Request], AccessRole]]("current_role")
_PROBES_PER_SECOND, _PROBE_BURST = 200, 40
_READS_PER_SECOND, _READ_BURST = 25, 10
"""The rate limit for all URL paths except health checks such as `/readyz`: requests per second, and requests in a
burst. With this limit, a client that polls continuously uses about one percent of the event loop's time."""
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""The headers of every response. `HttpListener.complete_response` adds them after the handler has returned. A handler
that streams its response must set them itself, because it sends the headers before it returns."""
_UNKNOWN_HOST = """\
unknown host name: connect to an address or to localhost, or add the name to ops.hosts
(GATEWAY_OPS_HOSTS, --ops-hosts)
"""
_UNAUTHENTICATED = """\
a token is required: send the token of ops.token_file as `Authorization: Bearer TOKEN`
(gateway status --token-file FILE)
"""
_METRICS_ALTERNATIVE = "or, for /metrics and /api/v1/sd, the token of ops.metrics_token_file\n"
_NEEDS_CERTIFICATE = "a client certificate is required: use one that ops.tls.client_ca_file has signed\n"
_METRICS_ONLY = "this token is valid for /metrics and /api/v1/sd only: use the token of ops.token_file\n"


class AuthorizationMiddleware:
    """Refuses unknown Host headers (421) and unauthorized clients (401, 403). Delays requests that are too frequent.

    Args:
        rules: The access rules of the listener.
        tokens: Returns the tokens that are currently accepted.
        roles: The role that each URL path requires. A URL path without an entry requires `AccessRole.EVERYTHING`.
        probes: The URL paths for health checks, which have a higher rate limit.
    """

    def __init__(
        self,
        rules: AccessRules,
        tokens: Callable[[], BearerTokens],
        roles: Mapping[str, AccessRole],
        probes: Container[str],
    ) -> None:
        self._rules = rules
        self._tokens = tokens
        self._roles = roles
        self._probes = probes
        self._probe_limiter = RateLimiter(_PROBES_PER_SECOND, _PROBE_BURST)
        self._read_limiter = RateLimiter(_READS_PER_SECOND, _READ_BURST)

    @web.middleware
    async def handle(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """If a request is authorized, pass it to its handler. Otherwise, return an error response."""
        resource = request.match_info.route.resource
        required = self._roles.get(resource.canonical, AccessRole.EVERYTHING) if resource else AccessRole.PROBES
        response = self._refusal(request, required)
        is_read = response is None and resource is not None and resource.canonical not in self._probes
        await _wait_for_turn(self._read_limiter if is_read else self._probe_limiter)
        if response is None:
            response = await handler(request)
        return response

    def _refusal(self, request: web.Request, required: AccessRole) -> web.StreamResponse | None:
        """Return an error response if the Host header is unknown or the authorization is missing; otherwise, None.

        Also store the client's role in the request, for `may_see_details` and `is_still_authorized`.
        """
        if not is_accepted_host(self._rules, request.headers.getall("Host", [])):
            return web.Response(status=421, text=_UNKNOWN_HOST)
        tokens, role = self._tokens(), self._current_role(request)
        request[_ROLE], request[_CURRENT_ROLE] = role, self._current_role
        if role >= required:
            return None
        if role is AccessRole.METRICS:
            return web.Response(status=403, text=_METRICS_ONLY)
        text = _UNAUTHENTICATED if tokens.everything is not None else _NEEDS_CERTIFICATE
        if required is AccessRole.METRICS and tokens.metrics is not None:
            text += _METRICS_ALTERNATIVE
        return web.Response(status=401, text=text, headers={"WWW-Authenticate": 'Bearer realm="gateway"'})

    def _current_role(self, request: web.Request) -> AccessRole:
        """Return the role that the client's certificate or bearer token grants at present."""
        transport = request.transport
        certified = bool(transport and transport.get_extra_info("peercert"))
        authorization = request.headers.get("Authorization")
        return granted_role(self._rules, self._tokens(), authorization, certified=certified)


async def _wait_for_turn(limiter: RateLimiter) -> None:
    """Wait until `limiter` permits the request. If the client disconnects, aiohttp cancels this wait."""
    wait = limiter.reserve(asyncio.get_running_loop().time())
    if not wait:
        return
    try:
        await asyncio.sleep(wait)
    except asyncio.CancelledError:
        limiter.cancel()
        raise


def may_see_details(request: web.Request) -> bool:
    """Return whether the client may read error details, which can contain hosts, users and paths.

    Clients of the admin socket may always read error details.
    """
    return bool(request.get(_ROLE, AccessRole.EVERYTHING) is AccessRole.EVERYTHING)


def is_still_authorized(request: web.Request) -> bool:
    """Return whether the client of an event stream may still receive events.

    The client's token can be revoked while the stream is open.
    """
    current_role = request.get(_CURRENT_ROLE)  # None for requests on the admin socket, which are always authorized
    return current_role is None or current_role(request) >= request[_ROLE]
