"""Checking what a store holds, and repairing it from what is left and from copies."""
