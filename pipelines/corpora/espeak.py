"""The embedded corpus: commands to a smart speaker, spoken by the eSpeak NG synthesiser. Synthetic, and labelled so.

    for utterance in read(None, corpus): utterance.text, utterance.recording.load()

Needs the extra `motet[espeak]`, see synthesiser.py. What is said comes from a grammar, who says it from voices.py.
Splits share neither a speaker, nor a variant, nor a sentence.

The corpus is a stream: utterance number k of a split depends on the seed, the split and the sentences before it, so
that asking for more utterances adds to the end and changes not a byte of what was there.

Options of the recipe's `corpora.<name>.options`: see Options.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import astuple, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mtl.tts.espeak import PAUSE
from pipelines.recipe import Corpus, Section
from pipelines.sources.source import Recording
from pipelines.synthetic import commands_de, commands_en, dialogues_en
from pipelines.synthetic.bilingual_grammar import Parallel
from pipelines.synthetic.grammar import Grammar, Sentence, weighted
from pipelines.synthetic.synthesizer import installed, render, speak
from pipelines.synthetic.voices import ACCENTS, STYLE_WEIGHTS, STYLES, Voice, speakers, styled
from pipelines.utterances.utterance import CorpusError, Reject, Utterance

if TYPE_CHECKING:
    from pipelines.sources.source import Source

VERSION = 1  # bump when the same options would give other rows or other bytes
SECONDS_PER_UTTERANCE = 2.7  # mean of the grammar over the voices, for turning hours into utterances
SENTENCE_SHARES = {"train": 80, "valid": 6, "test": 14}  # percent of all sentences
GRAMMARS: dict[str, Grammar] = {"en": commands_en.GRAMMAR, "de": commands_de.GRAMMAR}
TRANSLATED: dict[str, Parallel] = {"de": commands_de.PARALLEL}  # from English


class Options(Section):
    """What the embedded corpus is made of; `utterances` wins over `hours`."""

    seed: int = Field(0, description="another seed is another corpus")
    hours: float = Field(1.5, gt=0, le=1000, description="audio to train on, about")
    utterances: int | None = Field(None, ge=1, description="utterances to train on, instead of hours")
    valid_utterances: int = Field(200, ge=1)
    test_utterances: int = Field(400, ge=1)
    text_only_sentences: int = Field(2000, ge=0, description="labelled training sentences without audio")
    speakers: int = Field(80, ge=1, le=600, description="speakers to train on")
    valid_speakers: int = Field(12, ge=1, le=96)
    test_speakers: int = Field(24, ge=1, le=192)
    languages: tuple[Literal["en", "de"], ...] = Field(
        ("en",), min_length=1, description="in turn; with two of them, `translation` holds the sentence in the other"
    )
    dialogues: int = Field(0, ge=0, description="spoken English dialogues to train on; none: no dialogues at all")
    text_only_dialogues: int = Field(0, ge=0, description="labelled training dialogues without audio")
    valid_dialogues: int = Field(30, ge=1)
    test_dialogues: int = Field(100, ge=1)
    translate: Literal["de"] | None = Field(None, description="`translation` of English, where that alone is spoken")
    accents: tuple[str, ...] | None = Field(
        None, min_length=1, description="of English voices; none: all that are used"
    )
    known_speakers: bool = Field(False, description="one set of speakers for all splits, as synthesis is judged")
    every_style: bool = Field(
        False, description="test sentences in every style, by one voice each, as conversion is judged"
    )
    noise_db: tuple[float, float] | None = Field(None, description="range of signal-to-noise ratios; none: clean")

    @field_validator("noise_db")
    @classmethod
    def _low_to_high(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"low end {bounds[0]:g} above high end {bounds[1]:g}")
        return bounds

    @field_validator("languages")
    @classmethod
    def _each_once(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(languages)) < len(languages):
            raise ValueError("a language is named twice")
        return languages

    @field_validator("accents")
    @classmethod
    def _are_used(cls, accents: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := sorted(set(accents or ()) - set(ACCENTS["en"])):
            raise ValueError(f"no accent {', '.join(unknown)}; expected some of {', '.join(ACCENTS['en'])}")
        return accents

    @model_validator(mode="after")
    def _translates_from_english(self) -> Options:
        if self.translate and self.languages != ("en",):
            raise ValueError(f"translate is for languages: [en]; {list(self.languages)} are translated as they are")
        return self

    @property
    def parallel(self) -> bool:
        """Whether sentences are drawn in pairs."""
        return self.languages != ("en",) or self.translate is not None

    @property
    def train_utterances(self) -> int:
        return self.utterances or max(1, round(self.hours * 3600 / SECONDS_PER_UTTERANCE))

    @property
    def counts(self) -> dict[str, int]:
        """Recordings of each split."""
        return {"train": self.train_utterances, "valid": self.valid_utterances, "test": self.test_utterances}

    def voices(self, split: str, language: str = "en") -> list[Voice]:
        """Who speaks in a split."""
        accents = self.accents if language == "en" else None
        of = "train" if self.known_speakers else split
        return speakers(of, self.split_speakers[of], self.seed, language, accents)

    @property
    def split_speakers(self) -> dict[str, int]:
        return {"train": self.speakers, "valid": self.valid_speakers, "test": self.test_speakers}


def read(source: Source | None, corpus: Corpus) -> Iterator[Utterance | Reject]:
    """Rows of train, valid and test with audio, then training sentences without. Makes no sound before `load()`.

    Raises CorpusError: options that do not fit, a source (there is none to read), or no eSpeak NG.
    """
    options = options_of(corpus)
    if source is not None:
        raise CorpusError(f"corpora.{corpus.name}: kind espeak makes its own audio; leave out its source")
    installed()
    for split, count in options.counts.items():
        for utterance in _spoken(options, split, count):
            yield _with_phones(utterance) if corpus.phonemes else utterance
    yield from _written(options, options.text_only_sentences)
    if options.dialogues or options.text_only_dialogues:
        counts = {"train": options.dialogues, "valid": options.valid_dialogues, "test": options.test_dialogues}
        for split, count in counts.items():
            yield from _conversations(options, split, count, spoken=True)
        yield from _conversations(options, "train", options.text_only_dialogues, spoken=False)


def fingerprint_of(corpus: Corpus) -> str:
    """Changes when `read` would yield something else: options, grammar, this file's VERSION, eSpeak's package."""
    options = options_of(corpus)
    languages = tuple(GRAMMARS) if options.parallel else options.languages  # German is drawn in English
    grammars = [GRAMMARS[language].fingerprint() for language in languages]
    if options.dialogues or options.text_only_dialogues:
        grammars.append(dialogues_en.GRAMMAR.fingerprint())
    # As before there were such options.
    unsaid = {name for name in ("translate", "accents", "known_speakers", "every_style") if not getattr(options, name)}
    if not (options.dialogues or options.text_only_dialogues):
        unsaid |= {name for name in Options.model_fields if name.endswith("dialogues")}
    spoken = (corpus.phonemes,) if corpus.phonemes else ()
    return _digest(VERSION, options.model_dump_json(exclude=unsaid), grammars, installed(), *spoken)


def options_of(corpus: Corpus) -> Options:
    """The corpus's options, checked. Raises CorpusError that names the nearest valid key."""
    where = f"corpora.{corpus.name}.options"
    for key in corpus.options:
        if key not in Options.model_fields:
            near = difflib.get_close_matches(key, Options.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(Options.model_fields)}"
            raise CorpusError(f"{where}.{key}: unknown key; {hint}")
    try:
        return Options.model_validate(corpus.options)
    except ValidationError as error:
        faults = [f"{where}.{'.'.join(map(str, f['loc']))}: {f['msg']} (given {f['input']!r})" for f in error.errors()]
        raise CorpusError("\n".join(faults)) from None


def split_of(text: str) -> str:
    """The split that a sentence belongs to, by its hash alone: no seed and no option moves it.

    A corpus with translations asks for the German side of each pair of sentences, several English ones sharing one
    German, so that neither a sentence nor its translation is in two splits.
    """
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    for split, share in SENTENCE_SHARES.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("SENTENCE_SHARES do not add up to 100")


def _spoken(options: Options, split: str, count: int) -> Iterator[Utterance]:
    voices = {name: options.voices(split, name) for name in options.languages}
    seen: set[str] = set()
    all_styles = options.every_style and split == "test"
    for number in range(-(-count // len(STYLES)) if all_styles else count):
        language = options.languages[number % len(options.languages)]
        rng = Random(f"{options.seed}/{language}/{split}/{number}")
        sentence, translation = _sentence(rng, language, options, split, seen)
        voice = voices[language][int(rng.random() * len(voices[language]))]
        style = weighted(rng, list(STYLE_WEIGHTS), list(STYLE_WEIGHTS.values()))
        noise = None
        if options.noise_db:
            low, high = options.noise_db
            noise = (low + rng.random() * (high - low), int(rng.random() * 2**31))
        name = f"{split}-{number:06d}"
        for one in STYLES if all_styles else (style,):
            own = f"{name}-{one}" if all_styles else name
            yield _row(
                own,
                split,
                sentence,
                recording=_recording(own, sentence.text, sentence.question, styled(voice, one), noise),
                speaker=voice.name,
                language=language,
                labels={"emotion": one, "translation": translation},
            )


def _conversations(options: Options, split: str, count: int, spoken: bool) -> Iterator[Utterance]:
    """The user's turns of so many dialogues, each with the turns before it; one speaker and style a dialogue.

    A dialogue is in one split, by the hash of all its words; a short turn such as "yes" is said in every split.
    """
    voices = options.voices(split)
    for number in range(count):
        rng = Random(f"{options.seed}/dialogue/{split}/{'spoken' if spoken else 'text'}/{number}")
        turns = dialogues_en.draw(rng)
        while split_of(" / ".join((*turns[-1].context, turns[-1].text))) != split:
            turns = dialogues_en.draw(rng)
        voice = voices[int(rng.random() * len(voices))]
        style = weighted(rng, list(STYLE_WEIGHTS), list(STYLE_WEIGHTS.values()))
        for place, turn in enumerate(turns):
            name = f"{split}-dialogue-{number:05d}-{place}" if spoken else f"text-dialogue-{number:05d}-{place}"
            yield Utterance(
                id=name,
                split=split,
                recording=_recording(name, turn.text, turn.question, styled(voice, style)) if spoken else None,
                text=turn.text,
                speaker=voice.name if spoken else None,
                language="en",
                labels={
                    "emotion": style if spoken else None,
                    "dialogue_act": turn.act,
                    "system_action": turn.action,
                },
                context=list(turn.context),
                file="espeak",
            )


def _written(options: Options, count: int) -> Iterator[Utterance]:
    seen: set[str] = set()
    for number in range(count):
        language = options.languages[number % len(options.languages)]
        rng = Random(f"{options.seed}/{language}/text/{number}")
        sentence, translation = _sentence(rng, language, options, "train", seen)
        yield _row(f"text-{number:06d}", "train", sentence, language=language, labels={"translation": translation})


def _recording(name: str, text: str, question: bool, voice: Voice, noise: tuple[float, int] | None = None) -> Recording:
    spoken = text + ("?" if question else "")
    return Recording(
        load=partial(render, spoken, voice, noise),
        name=f"{name}.flac",
        stamp=_digest(VERSION, spoken, astuple(voice), noise, installed()),
    )


def _row(
    name: str,
    split: str,
    sentence: Sentence,
    language: str,
    labels: Mapping[str, str | None],
    recording: Recording | None = None,
    speaker: str | None = None,
) -> Utterance:
    return Utterance(
        id=name,
        split=split,
        recording=recording,
        text=sentence.text,
        tokens=list(sentence.tokens),
        slots=list(sentence.slots),
        speaker=speaker,
        language=language,
        labels={"intent": sentence.intent, "domain": sentence.domain, **labels},
        file="espeak",
    )


def _sentence(rng: Random, language: str, options: Options, split: str, seen: set[str]) -> tuple[Sentence, str | None]:
    """A sentence of this split, a new one while new ones are easy to find, and its translation; `seen` is added to."""
    for attempt in range(1000):
        if not options.parallel:
            sentence, translation = GRAMMARS["en"].draw(rng), None
            place = sentence.text
        else:
            english, german = TRANSLATED["de"].draw(rng)
            sentence, other = (german, english) if language == "de" else (english, german)
            translated = len(options.languages) > 1 or options.translate is not None
            translation, place = other.text if translated else None, german.text
        if split_of(place) == split and (sentence.text not in seen or attempt >= 100):
            seen.add(sentence.text)
            return sentence, translation
    raise CorpusError(f"the {language} grammar has no sentence for the {split} split; SENTENCE_SHARES leave it none")


def _with_phones(utterance: Utterance) -> Utterance:
    """The utterance with what eSpeak says in it, and when: phones and durations as true as can be."""
    spoken: Any = utterance.recording and utterance.recording.load  # `render`, with its arguments
    text, voice, _noise = spoken.args
    said = speak(text, voice).phonemes
    return replace(utterance, phones=[symbol for symbol, _, _ in said], phone_ends=[end for _, _, end in said])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def phonemes_of(corpus: Corpus, split: str) -> Iterator[tuple[str, tuple[tuple[str, float, float], ...]]]:
    """Name of each recording of a split, and what is heard in it and when, spoken again to hear it: (symbol, s, s)."""
    options = options_of(corpus)
    for utterance in _spoken(options, split, options.counts[split]):
        spoken: Any = utterance.recording and utterance.recording.load  # `render`, with its arguments
        text, voice, _noise = spoken.args
        heard = (spoken for spoken in speak(text, voice).phonemes if spoken[0] != PAUSE and spoken[1] < spoken[2])
        yield utterance.id, tuple(heard)
