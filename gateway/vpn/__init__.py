"""OpenVPN and WireGuard tunnels: child processes, network devices, network namespaces and liveness checks."""
