"""From YAML, environment and flags to frozen dataclasses, or every error at once with its place."""

from gateway.config.load import Sources, load
from gateway.config.model import BackendSpec, Config, TunnelSpec

__all__ = ["BackendSpec", "Config", "Sources", "TunnelSpec", "load"]
