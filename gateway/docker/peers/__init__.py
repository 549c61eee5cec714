"""The agents of a swarm exchange the addresses of their nodes' containers on shared overlay networks."""
