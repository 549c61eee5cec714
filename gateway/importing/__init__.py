"""Converts existing setups to configurations: ssh commands, Compose files, docker commands, and other sources. Does no I/O."""
