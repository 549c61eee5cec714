"""What stands before the handlers of a TCP listener: host, authentication, pace."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from gateway.ops.access import Role, Rules, Tokens, knows_host, role
from gateway.ops.bounds import Pace

_ROLE = web.RequestKey("role", Role)
_PROBES_PER_SECOND, _PROBES_AT_ONCE = 200, 40
_ANSWERS_PER_SECOND, _ANSWERS_AT_ONCE = 25, 10
"""So that whoever asks in a loop takes about a percent of the event loop's time; a scrape or a page needs a few."""
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_UNKNOWN_HOST = """\
this name is not one of the gateway's: ask by address, or as localhost, or list the name in ops.hosts
(GATEWAY_OPS_HOSTS, --ops-hosts)
"""
_UNAUTHENTICATED = """\
this needs the token of ops.token_file, as in `Authorization: Bearer TOKEN` (gateway status --token-file FILE)
"""
_METRICS_TOO = "or, for /metrics alone, that of ops.metrics_token_file\n"
_NEEDS_CERTIFICATE = "this needs a client certificate that ops.tls.client_ca_file has signed\n"
_NOT_FOR_METRICS = "this token opens /metrics only: use that of ops.token_file\n"


class Guard:
    """Answers 421 to unknown Host headers, 401 and 403 to unauthorized clients, and limits the request rate.

    Args:
        rules: What is asked of clients.
        tokens: Gives those that are accepted now.
        roles: What each path needs; a path that is served and not listed needs `Role.EVERYTHING`.
    """

    def __init__(self, rules: Rules, tokens: Callable[[], Tokens], roles: Mapping[str, Role]) -> None:
        self._rules = rules
        self._tokens = tokens
        self._roles = roles
        self._probes = Pace(_PROBES_PER_SECOND, _PROBES_AT_ONCE)
        self._answers = Pace(_ANSWERS_PER_SECOND, _ANSWERS_AT_ONCE)

    @web.middleware
    async def checked(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let a request through, or refuse it."""
        resource = request.match_info.route.resource
        needed = self._roles.get(resource.canonical, Role.EVERYTHING) if resource else Role.PROBES
        response = self._refusal(request, needed)
        pace = self._answers if response is None and needed is not Role.PROBES else self._probes
        await _turn(pace)
        if response is None:
            response = await handler(request)
        response.headers.update(_HEADERS)
        return response

    def _refusal(self, request: web.Request, needed: Role) -> web.StreamResponse | None:
        if not knows_host(self._rules, request.headers.getall("Host", [])):
            return web.Response(status=421, text=_UNKNOWN_HOST)
        tokens = self._tokens()
        transport = request.transport
        certified = bool(transport and transport.get_extra_info("peercert"))
        held = role(self._rules, tokens, request.headers.get("Authorization"), certified=certified)
        request[_ROLE] = held
        if held >= needed:
            return None
        if held is Role.METRICS:
            return web.Response(status=403, text=_NOT_FOR_METRICS)
        text = _UNAUTHENTICATED if tokens.everything is not None else _NEEDS_CERTIFICATE
        if needed is Role.METRICS and tokens.metrics is not None:
            text += _METRICS_TOO
        return web.Response(status=401, text=text, headers={"WWW-Authenticate": 'Bearer realm="gateway"'})


async def _turn(pace: Pace) -> None:
    """Wait until `pace` permits an answer; a client that leaves meanwhile (which cancels this) is not counted."""
    wait = pace.wait(asyncio.get_running_loop().time())
    if not wait:
        return
    try:
        await asyncio.sleep(wait)
    except asyncio.CancelledError:
        pace.refund()
        raise


def shows_details(request: web.Request) -> bool:
    """Whether the client may see what stands in errors: hosts, users, paths. On the admin socket, it may."""
    return bool(request.get(_ROLE, Role.EVERYTHING) is Role.EVERYTHING)
