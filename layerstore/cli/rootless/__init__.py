"""Becoming root in a user namespace, for who is not root."""
