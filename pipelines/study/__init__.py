"""Studies: transfer between tasks, few labels, sharing modes and balancing methods, held-out speakers."""
