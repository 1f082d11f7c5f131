"""The machine and what a root holds: checks, listings, local servers."""
