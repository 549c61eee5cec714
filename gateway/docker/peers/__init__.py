"""Exchanges the addresses of containers between agents (the gateways on the nodes of a swarm)."""
