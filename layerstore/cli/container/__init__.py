"""The commands of containers: run, ps, logs, stop, cp, volume and the like."""
