"""Interfaces and value types that all packages share. This package uses only the standard library."""
