"""Many gateways in one table: which gateways are members, and what each of them last answered. Read-only."""
