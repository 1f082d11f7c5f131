"""From corpora to batches: ingest, features, alignment, prosody, dataset, loader."""
