"""Who asks for an admin command, and what comes of it: for the log, and for the service to record."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.relay.sockets import Peer, peer_of

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.Response]]
_RESULTS = {200: "done", 404: "unknown", 409: "failed", 422: "refused"}


def recorded(handler: Handler, record: Callable[[str, Peer | None, str], None]) -> Handler:
    """`handler`, whose requests are logged and recorded with the process that makes them.

    Args:
        handler: Does an admin command.
        record: Called with the path, the peer and the result, once the command is done or has failed.
    """

    async def answer(request: web.Request) -> web.Response:
        sock = request.transport.get_extra_info("socket") if request.transport else None
        peer = peer_of(sock) if sock is not None else None
        result = "failed"
        try:
            response = await handler(request)
            result = _RESULTS.get(response.status, result)
            return response
        finally:
            who = peer._asdict() if peer else {}
            log.info("admin command", extra={"command": request.path, **who, "result": result})
            record(request.path, peer, result)

    return answer
