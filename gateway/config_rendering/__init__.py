"""Renders the output of `gateway render`, such as Compose files and Kubernetes manifests, from a configuration."""
