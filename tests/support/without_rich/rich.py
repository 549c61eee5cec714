"""Makes `import rich` fail, because the gateway must work without the package rich, as in the container image."""

raise ImportError
