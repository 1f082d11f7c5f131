"""Ray Train around `mtl.training.fit`: what it is given, the driver, the workers."""
