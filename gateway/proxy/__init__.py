"""SOCKS5 and HTTP CONNECT proxies, by python-socks: what to say to them, over a socket that another link gave."""
