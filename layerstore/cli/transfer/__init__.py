"""Images on their way in and out: files, registries, other engines, and whom we trust there."""
