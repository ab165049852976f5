"""Content moved to other packs: what lives copied, and made smaller."""
