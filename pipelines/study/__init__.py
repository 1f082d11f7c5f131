"""Which tasks help which, with how few labels, in which sharing mode, under which balancing."""
