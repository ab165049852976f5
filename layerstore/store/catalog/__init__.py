"""The catalog: an SQLite index of what a store has, its tables, rows and connections."""
