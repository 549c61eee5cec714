"""Accepts clients and joins them to targets: listeners, admission, dialing."""
