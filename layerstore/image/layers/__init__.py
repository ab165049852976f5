"""Layers made of tars, directories and open files, and read again from the store."""
