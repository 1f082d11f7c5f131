"""Parts of synthesis: phonemes, prosody features, acoustic model, vocoder, alignment."""
