"""Tunnels of kind `proxy`: SOCKS5 and HTTP CONNECT over sockets of another link."""
