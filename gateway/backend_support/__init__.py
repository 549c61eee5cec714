"""Contains code that several kinds of backend use."""
