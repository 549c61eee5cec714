"""Renders the output of `gateway render` from a configuration. Only `authorized_keys.py` does I/O: it reads keys."""
