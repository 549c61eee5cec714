"""Worker processes, which move the bytes of bulk backends. Each has its own interpreter and SSH connections.

The main process, the owner, runs the checks, metrics and the admin socket, and binds all listeners. A worker owns the
clients of its backends. Probes take the same path as traffic: the owner sends the worker one end of a socket pair,
and the worker joins that end to the target.
"""
