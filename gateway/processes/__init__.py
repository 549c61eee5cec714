"""Starts and stops child processes, and reads and writes their standard streams."""
