"""The stages of a night and what they share; `pipelines/nightly.py` lists them in order."""
