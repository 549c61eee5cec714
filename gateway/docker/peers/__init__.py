"""Exchanges the addresses of containers between the gateways on the nodes of a swarm."""
