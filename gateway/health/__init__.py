"""Checks the targets of backends on a schedule, derives their states, and selects the targets for new clients."""
