"""What the agents of a swarm's nodes tell each other: which container has which address on their overlays."""
