"""Finds the gateways of a fleet, asks each for a summary, and keeps the last answers. Changes nothing."""
