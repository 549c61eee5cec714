"""Converts existing setups to configurations: ssh commands, Compose files, docker commands and others. Does no I/O."""
