"""OpenVPN and WireGuard: the child, its device, the network it is in, and whether anything still comes through."""
