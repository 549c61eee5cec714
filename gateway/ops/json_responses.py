"""Creates small JSON responses of the ops server."""

import json
from collections.abc import Iterable

from aiohttp import web

_MAX_NAMES = 20
"""Maximum number of existing names in the error message for an unknown name."""


def json_response(body: object, *, status: int = 200) -> web.Response:
    """Return a JSON response. `body` must be small, because encoding it blocks the event loop."""
    return web.Response(
        text=json.dumps(body, indent=1, allow_nan=False) + "\n", status=status, content_type="application/json"
    )


def not_found(what: str, name: str, known: Iterable[str] = ()) -> web.Response:
    """Return a response with status 404 for an object that does not exist.

    Args:
        what: The type of the object: `backend`, `tunnel` or `container`.
        name: The name in the request.
        known: The names that exist, for the error message; empty if the client may not read them.
    """
    names = ", ".join(sorted(known)[:_MAX_NAMES])
    detail = f"there is no {what} {name!r}" + (f": use one of {names}" if names else "")
    return json_response({"status": "unknown", "detail": detail}, status=404)
