"""The command line: commands, options and results."""
