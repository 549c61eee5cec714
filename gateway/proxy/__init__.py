"""SOCKS5 and HTTP CONNECT proxies: python-socks implements the protocols, over sockets of another link."""
