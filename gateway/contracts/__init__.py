"""Interfaces and value types that all packages share. Only the standard library."""
