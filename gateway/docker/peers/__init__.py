"""The exchange between the agents of a swarm's nodes: which container has which address on their shared overlays."""
