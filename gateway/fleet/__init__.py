"""Finds the gateways of a fleet, requests a summary from each, and stores the last responses."""
