"""The embedded corpus: grammars, voices, synthesiser."""
