"""Stores elsewhere: images read from them, who reads ours, and packs made for others."""
