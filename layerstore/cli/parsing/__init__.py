"""Words of command lines to values, for several nouns; knows none of their commands."""
