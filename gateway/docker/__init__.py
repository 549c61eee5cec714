"""Docker: networks and attachments kept as configured, and who is behind an address. The only room with aiodocker."""
