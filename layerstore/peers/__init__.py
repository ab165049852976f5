"""Other people's engines on this host: what they are shown, given and asked."""
