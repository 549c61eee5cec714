"""Defines two facts (reported values) of replicated databases: whether a database is read-only, and its lag."""

from gateway.facts import FactDefinition

READ_ONLY = FactDefinition(
    "read_only",
    "Whether the database refuses writes.",
    metric="gateway_database_read_only",
    describe=lambda read_only: "read-only" if read_only else "",
)
LAG = FactDefinition(
    "lag_seconds",
    "Replication lag of a replica.",
    metric="gateway_database_replication_lag_seconds",
    describe=lambda seconds: f"{seconds:g} s lag" if seconds else "",
)
