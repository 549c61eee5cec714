"""Worker processes, which carry the traffic of bulk backends. Each has its own interpreter and SSH connections.

The main process, the owner, runs the checks, metrics and the admin socket, and binds all listeners. A worker owns the
clients of its backends. The owner's probes take the same path as traffic: the owner sends one end of a socket pair
to the worker, and the worker connects that end to the target.
"""
