"""Parses YAML, environment variables and flags into frozen dataclasses. Errors list all problems and their places."""

from gateway.config.load import Sources, load
from gateway.config.model import BackendSpec, Config, TunnelSpec

__all__ = ["BackendSpec", "Config", "Sources", "TunnelSpec", "load"]
