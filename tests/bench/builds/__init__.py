"""Builds here and by docker and buildah: what they cost and what they store."""
