"""Renders the status page and the other HTML pages. Each page is one self-contained HTML document."""
