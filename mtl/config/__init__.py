"""Settings of the model, its training and its decoding: frozen dataclasses that need no torch.

Each setting is declared once, as a line of its dataclass, with default, bounds and description. A recipe consists of
these dataclasses (pipelines/recipe), so a new setting appears in recipes, in `motet recipe schema` and in the reference
without another edit. Bounds are checked when a recipe is read; mtl itself takes any value.
"""
