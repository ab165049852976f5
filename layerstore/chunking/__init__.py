"""Where content is cut into chunks; pure, deterministic, frozen by golden tests."""
