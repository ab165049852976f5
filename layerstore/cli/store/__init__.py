"""The commands about a whole store: init, upgrade, gc, check, repair, optimize."""
