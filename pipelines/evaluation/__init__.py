"""How good a model is, where, and whether it may replace the champion."""
