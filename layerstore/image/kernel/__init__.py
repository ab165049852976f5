"""Images and layers as EROFS images, for views that the kernel shows."""
