"""Worker processes: the byte path of bulk backends on a core of its own, with its own SSH connections.

One process owns health, metrics, the admin socket and every listening socket; a worker owns the clients of its
backends. The probes still travel the worker's path: the owner hands it one end of a socket pair to join.
"""
