"""The utterance table: schema, splits, labels."""
