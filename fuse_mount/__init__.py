"""Mounted views of images: the FUSE server and the table of mounts."""
