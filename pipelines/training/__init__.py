"""Ray Train around `mtl.training.fit`: preparation, driver, workers, checkpoints."""
