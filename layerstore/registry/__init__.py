"""Registries as the OCI distribution spec has them: a client that knows no store."""
