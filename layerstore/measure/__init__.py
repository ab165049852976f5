"""Every stored byte with its owner, and what was saved against which baseline."""
