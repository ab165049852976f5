"""A registry of thousands of images, simulated from what real packages hold: docs/simulation.md."""
