"""Normalisation, units and verbalisation of text. No model."""
