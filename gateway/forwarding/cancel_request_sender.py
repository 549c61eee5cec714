"""Forwards a cancel request to the target of the query to cancel, or to each target that might run this query."""

import asyncio
from collections.abc import Sequence

from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.errors import DialError, FailureReason, LinkLostError
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.query_cancel_router import send_copy
from gateway.forwarding.target_dialer import TargetDialer
from gateway.forwarding.target_path import TargetIdentity, TargetPath
from gateway.metric_types import Histogram
from gateway.query_cancel_parser import CancelRequest

_DIAL_TIMEOUT = 5.0
"""Maximum seconds to dial the target of a cancel request. The limit is short, because a late request would cancel the
session's next query."""


async def join_cancel_request(
    client: PendingClient,
    request: CancelRequest,
    dialer: TargetDialer,
    latency: Histogram,
    candidates: Sequence[TargetIdentity],
    default: TargetPath | None,
) -> tuple[TargetPath, Relay]:
    """Connect a client to one of `candidates`. Send copies of its cancel request to the other candidates.

    Any open path to a target is suitable, because a server accepts a cancel request on every connection.

    Args:
        client: The client.
        request: The client's cancel request.
        dialer: Dials the targets.
        latency: Records the response latencies.
        candidates: The targets that might run the query to cancel; at least one.
        default: The path that a new session would use; None if there is none.

    Returns:
        The path to the target to which the client was connected, and the relay.

    Raises:
        DialError: The target cannot be reached.
    """
    paths = [target_path for each in candidates for target_path in each.paths()]
    if default is not None and default.identity in candidates:
        paths.insert(0, default)
    chosen = next(((each, link) for each in paths if (link := each.uplink.link) is not None), None)
    if chosen is None:
        closed = ", ".join(str(each.target) for each in candidates)
        raise DialError(FailureReason.TUNNEL, f"no path is open to the query's target ({closed})")
    target_path, link = chosen
    copies = asyncio.gather(*(send_copy(request, each) for each in candidates if each != target_path.identity))
    relay: Relay | None = None
    try:
        relay = await dialer.join(client, link, target_path, latency, _DIAL_TIMEOUT)
        await copies
    except DialError:
        dialer.route.on_failure(target_path)
        await copies
        raise
    except LinkLostError as error:
        await copies
        raise DialError(FailureReason.TUNNEL, error.detail) from error
    except BaseException:
        copies.cancel()
        if relay is not None:
            relay.abort(CloseReason.ABORTED)
        raise
    return target_path, relay
