"""Converts existing setups, such as ssh commands and Compose files, to configurations. Does no I/O."""
