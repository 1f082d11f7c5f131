"""Metrics of tasks, from counts per utterance; floors and bootstrap."""
