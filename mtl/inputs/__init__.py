"""What a model is fed: examples, batches, targets, front-ends."""
