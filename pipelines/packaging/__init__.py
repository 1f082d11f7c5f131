"""The package of a model: a folder of code, weights, signature and requirements that MLflow loads."""
