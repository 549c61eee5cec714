"""Implements OpenVPN and WireGuard tunnels: child processes, devices, network namespaces and liveness checks."""
