"""The store: roots, locks, datasets by content, garbage collection, checks."""
