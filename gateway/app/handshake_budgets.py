"""Owns the handshake budgets, which track how many more aborted handshakes each MySQL server tolerates."""

import time
from collections.abc import Iterable

from gateway.config import BackendSpec
from gateway.contracts.values import Endpoint
from gateway.forwarding.handshake_budget import HandshakeBudget, join_budgets

_Way = tuple[str | None, Endpoint]
"""A tunnel (None: no tunnel) and the address of a target."""


class HandshakeBudgets:
    """The handshake budgets: one for each target and tunnel, shared by all backends.

    All ways of a backend to one target lead to the same server, so their budgets are peers (see `join_budgets`). If
    two backends have a way in common, all their ways to this target are peers. Budgets survive a reload, because the
    server's count continues.
    """

    def __init__(self) -> None:
        self._budgets: dict[_Way, HandshakeBudget] = {}

    def update(self, specs: Iterable[BackendSpec]) -> None:
        """Create the missing budgets of a configuration, and make the budgets of the ways to each server peers.

        Args:
            specs: All backends of the configuration.
        """
        servers: dict[_Way, frozenset[_Way]] = {}
        for spec in specs:
            limit = spec.kind.abort_limit
            if limit is None:
                continue
            for target in spec.targets:
                ways = frozenset((way, target) for way in spec.ways(target) or (None,))
                for way in ways:
                    self._budgets.setdefault(way, HandshakeBudget(limit))
                server = ways.union(*(servers.get(way, ()) for way in ways))
                servers |= dict.fromkeys(server, server)
        for server in set(servers.values()):
            join_budgets([self._budgets[way] for way in server])

    def of(self, spec: BackendSpec, target: Endpoint, tunnel: str | None) -> HandshakeBudget | None:
        """Return the budget of one of a backend's ways; None if its servers do not count aborted handshakes.

        Args:
            spec: The backend.
            target: The target.
            tunnel: The tunnel of the way; None if the way has no tunnel.
        """
        return self._budgets.get((tunnel, target)) if spec.kind.abort_limit is not None else None

    def record_abandoned_dial(self, tunnel: str | None, target: Endpoint) -> None:
        """Record an abandoned dial of a check. If the dial still connects, the server counts an aborted handshake."""
        budget = self._budgets.get((tunnel, target))
        if budget is not None:
            budget.record_abandoned(time.monotonic())
