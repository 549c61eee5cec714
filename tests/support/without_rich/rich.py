"""Replaces the package rich, because the services of the tests run without it, as in the image."""

raise ImportError
