"""Multi-task speech models: a shared encoder, heads, balancing and the training loop.

Needs torch, numpy and small pure libraries; knows nothing of Ray, Prefect, MLflow or Arrow.
Shapes in comments: B batch, T frames, L words, U units, C characters, D width, F mel bins, K tasks.
"""
