"""The command line: reads the environment, prints, sets exit codes."""
