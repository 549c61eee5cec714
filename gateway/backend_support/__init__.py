"""Code that several kinds of backend share."""
