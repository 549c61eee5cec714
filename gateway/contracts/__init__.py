"""Interfaces and value types that all packages share. This package needs no third-party library."""
