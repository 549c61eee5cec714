"""A whole small site on loopback: real servers as child processes, for `gateway demo` and the tests."""
