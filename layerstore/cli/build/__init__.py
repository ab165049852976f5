"""The commands about builds: build and its options, and why."""
