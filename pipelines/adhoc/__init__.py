"""Commands outside a night: predict, evaluate, synthesise."""
