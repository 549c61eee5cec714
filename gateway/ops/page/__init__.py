"""The status page, one self-contained file."""
