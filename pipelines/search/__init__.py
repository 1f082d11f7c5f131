"""Hyperparameter search with Ray Tune, and the Pareto front over tasks."""
