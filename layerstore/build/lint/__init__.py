"""Build checks: what in a Dockerfile works but is likely to be a mistake."""
