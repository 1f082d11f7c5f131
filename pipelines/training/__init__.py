"""Ray Train around `mtl.fit`: what it is given, the driver, the workers."""
