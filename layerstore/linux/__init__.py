"""What the kernel offers, without a word of images: files, locks, mounts, namespaces."""
