"""Parses YAML, environment variables and flags into frozen dataclasses. Errors list all problems and their places."""

from gateway.config.loader import ConfigSources, load
from gateway.config.model import BackendSpec, Config, TunnelSpec

__all__ = ["BackendSpec", "Config", "ConfigSources", "TunnelSpec", "load"]
