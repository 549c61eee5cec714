"""Owns the handshake budgets, which prevent MySQL servers from blocking the gateway after aborted handshakes."""

import time
from collections.abc import Iterable

from gateway.config import BackendSpec
from gateway.contracts.config_types import HostPort
from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget, join_budgets

_NetworkPath = tuple[str | None, HostPort]
"""A tunnel (None: no tunnel) and the address of a target."""


class AbortedHandshakeBudgets:
    """Owns one handshake budget for each path. A path is a pair of a tunnel (or none) and a target address.

    Backends with the same path use the same budget. All paths of a backend to one target lead to the same server.
    Connections over different paths can reach the server from the same source address. The server then counts their
    aborted handshakes together. Therefore, `join_budgets` combines the budgets of all paths to one server.

    A reload keeps the budgets, because a reload does not reset the server's count.
    """

    def __init__(self) -> None:
        self._budgets: dict[_NetworkPath, AbortedHandshakeBudget] = {}

    def update(self, specs: Iterable[BackendSpec]) -> None:
        """Create the missing budgets, and combine the budgets of all paths to one server.

        Args:
            specs: All backends of the configuration.
        """
        servers: dict[_NetworkPath, frozenset[_NetworkPath]] = {}
        for spec in specs:
            limit = spec.kind.abort_limit
            if limit is None:
                continue
            for target in spec.targets:
                paths = frozenset((tunnel, target) for tunnel in spec.paths(target) or (None,))
                for path in paths:
                    self._budgets.setdefault(path, AbortedHandshakeBudget(limit))
                server = paths.union(*(servers.get(path, ()) for path in paths))
                servers |= dict.fromkeys(server, server)
        for server in set(servers.values()):
            join_budgets([self._budgets[path] for path in server])

    def of(self, spec: BackendSpec, target: HostPort, tunnel: str | None) -> AbortedHandshakeBudget | None:
        """Return the budget of a path; None if servers of the backend's kind do not count aborted handshakes.

        Args:
            spec: The backend.
            target: The target.
            tunnel: The tunnel; None for a direct connection.
        """
        return self._budgets.get((tunnel, target)) if spec.kind.abort_limit is not None else None

    def record_abandoned_dial(self, tunnel: str | None, target: HostPort) -> None:
        """Record that a check has abandoned a dial. The server might count the dial as an aborted handshake."""
        budget = self._budgets.get((tunnel, target))
        if budget is not None:
            budget.record_abandoned(time.monotonic())
