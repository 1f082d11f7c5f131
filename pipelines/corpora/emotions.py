"""Names of acted and perceived emotions, the same in every corpus, and how a recipe merges or drops some of them.

    emotion = renaming(corpus)("excited")          # "happy" with options.emotions: {excited: happy}

A corpus's own codes become these names; `options.emotions` then maps names to names, or to null: such rows keep their
sound and words and are not labelled. Four-class work on IEMOCAP merges excited into happy and drops the others.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.recipe import Corpus
from pipelines.utterances.utterance import CorpusError

OPTION = "emotions"


def renaming(corpus: Corpus, names: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """What the recipe calls an emotion of this corpus; `names` are all that the corpus knows.

    Raises:
        CorpusError: `options.emotions` is not a mapping, or maps an emotion that the corpus does not know.
    """
    given = corpus.options.get(OPTION, {})
    where = f"corpora.{corpus.name}.options.{OPTION}"
    if not isinstance(given, dict) or not all(new is None or isinstance(new, str) for new in given.values()):
        raise CorpusError(
            f"{where} is {given!r}; expected emotions and what to call them, or null, such as {{excited: happy}}"
        )
    if unknown := sorted(set(map(str, given)) - set(names)):
        raise CorpusError(f"{where}: {corpus.kind} knows no {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    return lambda name: given.get(name, name)
