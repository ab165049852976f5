"""What software an image holds, read from its package databases without mounting it."""
