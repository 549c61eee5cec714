"""ONC RPC and NFSv4: the subset that health checks and latency measurement need."""
