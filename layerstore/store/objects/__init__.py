"""What the kernel reads by itself: the object tier, and packs in place."""
