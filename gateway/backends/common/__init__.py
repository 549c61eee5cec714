"""What several kinds of backend share."""
