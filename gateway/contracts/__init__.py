"""Interfaces and value types that all packages share. Without third-party libraries."""
