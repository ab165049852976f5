"""Layers stacked to trees, trees compared, and both written as tars again."""
