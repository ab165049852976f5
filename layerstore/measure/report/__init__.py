"""The savings as a page and as pictures, for people who do not sit at the terminal."""
