"""Who is at work in a store, who is kept out meanwhile, and for how long a lock is held."""
