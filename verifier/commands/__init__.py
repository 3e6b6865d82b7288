"""The command line: one file for each command, and what they share (options.py, shared.py, command.py)."""
