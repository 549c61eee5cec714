"""Runs real servers on loopback, as child processes, for `gateway demo` and the tests."""
