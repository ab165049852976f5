"""Which images a store has: names, pins, when they were used, and how they came."""
