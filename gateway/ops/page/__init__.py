"""Contains the status page, one self-contained HTML file."""
