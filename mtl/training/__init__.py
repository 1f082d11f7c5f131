"""The training loop: fit, gradients of a step, parallelism, checkpoints, curriculum."""
