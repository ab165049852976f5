"""Packs and their blocks: encoded, written, named, and read with every byte verified."""
