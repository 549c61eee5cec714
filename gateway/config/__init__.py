"""Parses YAML, environment and flags into frozen dataclasses. If the configuration is invalid, the error lists all
problems with their places."""

from gateway.config.load import Sources, load
from gateway.config.model import BackendSpec, Config, TunnelSpec

__all__ = ["BackendSpec", "Config", "Sources", "TunnelSpec", "load"]
