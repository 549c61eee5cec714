"""Implements the parts of ONC RPC and NFSv4 that health checks and latency measurements need."""
