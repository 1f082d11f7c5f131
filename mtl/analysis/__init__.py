"""Analyses of trained models: probes, transfer between tasks, Pareto fronts, comparison at equal size."""
