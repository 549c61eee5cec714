"""Converts existing setups to configurations: ssh commands, ssh_config files, compose files. Pure."""
