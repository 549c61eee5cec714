"""Implements tunnels through proxies: SOCKS5 and HTTP CONNECT. The proxy can be behind another tunnel."""
