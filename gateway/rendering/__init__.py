"""What `gateway render` prints, from a configuration. Pure, except for the tunnels' keys in `authorized_keys.py`."""
