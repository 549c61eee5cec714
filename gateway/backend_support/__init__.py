"""Contains code that several kinds of backend share, such as logins, TLS and volumes."""
