"""Signatures of images: keys, what is signed, where signatures lie, and which are wanted."""
