"""The science: one shared encoder, several tasks, their balancing and their training loop.

Needs torch, numpy and small pure libraries; knows nothing of Ray, Prefect, MLflow or Arrow.
Shapes in comments: B batch, T frames, L words, U units, C characters, D width, F mel bins, K tasks.
"""
