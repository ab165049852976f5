"""Layers and images: ingest, stack, diff, export."""
