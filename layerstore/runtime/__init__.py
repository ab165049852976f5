"""What every container of ours has in common, whoever starts it: config.json, limits, runtimes."""
