"""Images whose content comes from a remote when it is asked for."""
