"""The commands that show images as directories: mount, umount, prepare, commit, other runtimes."""
