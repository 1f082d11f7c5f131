"""Checks of this machine, listings of a root, local servers."""
