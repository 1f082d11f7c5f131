"""From scores to sequences: greedy and beam search, alignment, language model, hot words."""
