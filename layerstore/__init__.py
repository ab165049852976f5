"""Build images, keep every byte once, mount shared root file systems, measure the savings."""
