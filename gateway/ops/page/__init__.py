"""Renders the status page and the other HTML pages. Each page is one file, and needs no other server."""
