"""Defines interfaces and value types that all packages share. Imports no third-party library."""
