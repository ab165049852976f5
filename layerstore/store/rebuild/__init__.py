"""What a store says of itself made again: the catalog, config.toml, older formats."""
