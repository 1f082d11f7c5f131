"""Common names of emotions over all corpora, and the option that renames or drops some of them.

    renamed = renaming(corpus, names)
    renamed("excited")                       # "happy" with options.emotions: {excited: happy}

Each reader maps its corpus's codes to common names; `options.emotions` maps these to other names, or to null for rows
that keep audio and text but are not labelled. Four-class work on IEMOCAP merges excited into happy and drops the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from pipelines.recipe import Corpus
from pipelines.utterances.utterance import CorpusError

OPTION = "emotions"


def renaming(corpus: Corpus, names: tuple[str, ...]) -> Callable[[str | None], str | None]:
    """A function that applies `options.emotions`; names: all emotions of the corpus.

    Raises:
        CorpusError: `options.emotions` is not a mapping, or has an unknown emotion.
    """
    new_names = corpus.options.get(OPTION, {})
    where = f"corpora.{corpus.name}.options.{OPTION}"
    if not isinstance(new_names, dict) or not all(new is None or isinstance(new, str) for new in new_names.values()):
        raise CorpusError(
            f"{where} is {new_names!r}; expected emotions and their new names, or null, such as {{excited: happy}}"
        )
    if unknown := sorted(set(map(str, new_names)) - set(names)):
        raise CorpusError(f"{where}: {corpus.kind} knows no {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    return lambda name: new_names.get(name, name)
