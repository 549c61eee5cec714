"""Checks targets on a schedule, derives their states, and orders the targets for new clients."""
