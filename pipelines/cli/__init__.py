"""What a person asks for at the command line in between nights, and what serves them."""
