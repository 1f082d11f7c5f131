"""Ray Tune over what a recipe leaves open, and the front of what the tasks trade."""
