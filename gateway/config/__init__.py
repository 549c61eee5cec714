"""Loads the configuration from a YAML file, environment variables and flags. A `ConfigError` lists every problem."""

from gateway.config.loader import ConfigSources, load
from gateway.config.model import BackendSpec, Config, TunnelSpec

__all__ = ["BackendSpec", "Config", "ConfigSources", "TunnelSpec", "load"]
