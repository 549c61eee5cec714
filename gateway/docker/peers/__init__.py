"""Exchanges the addresses of containers between the agents of a swarm, over the overlay networks that they share."""
