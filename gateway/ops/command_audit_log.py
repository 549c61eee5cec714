"""Records each admin command, and the process that sent it, in the service log and in the audit log."""

import logging
from collections.abc import Callable

from aiohttp import web

from gateway.ops.http_get_handlers import RequestHandler
from gateway.relay.unix_sockets import PeerCredentials, peer_of

log = logging.getLogger(__name__)

_RESULTS = {200: "done", 404: "unknown", 409: "failed", 422: "refused"}


def audited(handler: RequestHandler, record: Callable[[str, PeerCredentials | None, str], None]) -> RequestHandler:
    """Return a handler that calls `handler` and records each request in the service log and in the audit log.

    Args:
        handler: Executes an admin command.
        record: Writes a command to the audit log. Called after each command, even if it failed, with the URL path
            of the request, the process that sent the command, and the result.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        sock = request.transport.get_extra_info("socket") if request.transport else None
        peer = peer_of(sock) if sock is not None else None
        result = "failed"
        try:
            response = await handler(request)
            result = _RESULTS.get(response.status, result)
            return response
        finally:
            extra = {"command": request.path, **(peer._asdict() if peer else {}), "result": result}
            log.info("admin command", extra=extra)
            record(request.path, peer, result)

    return handle
