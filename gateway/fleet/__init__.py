"""Finds the gateways of a fleet, requests a summary from each gateway, and stores the last responses."""
