"""Writes the audit log: one JSON line per event (see docs/audit-log.md). Imports only the standard library."""
