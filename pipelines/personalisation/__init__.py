"""Adapters for single users: training, evaluation, registration."""
