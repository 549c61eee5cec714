"""Creates Docker networks, attaches containers to them as configured, and identifies clients by container."""
