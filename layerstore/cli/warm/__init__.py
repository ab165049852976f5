"""The helper of ``layerstore warm``: what waits, and what tells it of new images."""
