"""From a spec to a graph, cached execution, and an image."""
