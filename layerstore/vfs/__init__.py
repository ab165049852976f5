"""What an image looks like as a file system, without any mount."""
