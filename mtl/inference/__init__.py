"""Trained models in use: predictor, adaptation to a user, synthesis, conversion."""
