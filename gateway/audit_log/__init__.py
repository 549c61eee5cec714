"""The audit log: who did what, one JSON line each. Standard library only; see docs/audit-log.md for the fields."""
