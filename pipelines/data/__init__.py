"""From a corpus, wherever it lies, to batches: ingest, features, dataset, loader; one file each."""
