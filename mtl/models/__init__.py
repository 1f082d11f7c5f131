"""The joint model and its configuration."""
