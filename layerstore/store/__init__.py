"""Chunks in packs behind one commit point: the durable floor."""
