"""Audit log: one JSON line per event. Standard library only; see docs/audit-log.md for the fields."""
