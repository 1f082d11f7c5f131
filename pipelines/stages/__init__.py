"""The stages of a night and their context; `pipelines/nightly.py` lists them in order."""
