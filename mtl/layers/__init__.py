"""Building blocks of networks: encoder, decoder, CRF, gradient reversal."""
