"""Configurations from what people run today: ssh commands, ssh_config files, compose files. Pure."""
