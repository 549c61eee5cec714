"""Runs database, NFS and SSH servers on loopback, as child processes, for `gateway demo` and the tests."""
