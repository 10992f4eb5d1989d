"""The HTTP application: routes, limits, keys, problems, OpenAPI."""
