"""ONC RPC and NFSv4, as far as asking a server for its health needs them."""
