"""The demo corpus: commands to a smart speaker, synthesised with eSpeak NG. All results on it are labelled synthetic.

    for utterance in read(None, corpus): utterance.text, utterance.recording.load()

Needs the extra `motet[espeak]`, see synthesizer.py. Sentences come from grammars, speakers from voices.py. Splits share
no speaker, variant or sentence. Utterance k of a split depends on the seed, the split and the sentences before it, so a
larger corpus only appends rows. The recipe's `corpora.<name>.options` are those of Options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple, replace
from functools import partial
from random import Random
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mtl.tts.espeak import PAUSE
from pipelines.corpora.base import Reader, Rows, check_options
from pipelines.recipe import Corpus, Section
from pipelines.sources.source import Recording, Source
from pipelines.synthetic import commands, dialogues_en
from pipelines.synthetic.grammar import Sentence, weighted
from pipelines.synthetic.synthesizer import installed, render, speak
from pipelines.synthetic.voices import ACCENTS, STYLE_WEIGHTS, STYLES, Voice, speakers, styled
from pipelines.utterances.utterance import CorpusError, Utterance

VERSION = 1  # raise when the same options give other rows or bytes
SECONDS_PER_UTTERANCE = 2.7  # mean over the grammar and the voices, to convert hours into utterances
SENTENCE_SHARES = {"train": 80, "valid": 6, "test": 14}  # percent of all sentences
GRAMMARS = {"en": commands.ENGLISH, "de": commands.GERMAN}
# Options that do not enter the fingerprint while they are unset: older versions did not have them.
_ADDED_OPTIONS = ("translate", "accents", "known_speakers", "every_style")


class Options(Section):
    """Settings of the demo corpus; `utterances` overrides `hours`."""

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
    def _are_known(cls, accents: tuple[str, ...] | None) -> tuple[str, ...] | None:
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
        """Whether sentences are drawn together with their translations."""
        return self.languages != ("en",) or self.translate is not None

    @property
    def has_dialogues(self) -> bool:
        return bool(self.dialogues or self.text_only_dialogues)

    @property
    def counts(self) -> dict[str, int]:
        """Recordings of each split."""
        train = self.utterances or max(1, round(self.hours * 3600 / SECONDS_PER_UTTERANCE))
        return {"train": train, "valid": self.valid_utterances, "test": self.test_utterances}

    def voices(self, split: str, language: str = "en") -> list[Voice]:
        """The speakers of a split."""
        counts = {"train": self.speakers, "valid": self.valid_speakers, "test": self.test_speakers}
        source = "train" if self.known_speakers else split
        return speakers(source, counts[source], self.seed, language, self.accents if language == "en" else None)


def read(source: Source | None, corpus: Corpus) -> Rows:
    """Rows of train, valid and test with audio, then sentences and dialogues. Audio is synthesised by `load()`.

    Raises CorpusError: invalid options, a source, or eSpeak NG is not installed.
    """
    options = options_of(corpus)
    if source is not None:
        raise CorpusError(f"corpora.{corpus.name}: kind espeak makes its own audio; leave out its source")
    installed()
    for split, count in options.counts.items():
        for utterance in _spoken(options, split, count):
            yield _with_phones(utterance) if corpus.phonemes else utterance
    yield from _text_only(options)
    if options.has_dialogues:
        counts = {"train": options.dialogues, "valid": options.valid_dialogues, "test": options.test_dialogues}
        for split, count in counts.items():
            yield from _dialogues(options, split, count, spoken=True)
        yield from _dialogues(options, "train", options.text_only_dialogues, spoken=False)


def fingerprint_of(source: Source | None, corpus: Corpus) -> str:
    """Hash of the options, the grammars, VERSION and eSpeak's version."""
    options = options_of(corpus)
    languages = tuple(GRAMMARS) if options.parallel else options.languages  # German is drawn in English
    grammars = [GRAMMARS[language].fingerprint() for language in languages]
    unset = {name for name in _ADDED_OPTIONS if not getattr(options, name)}
    if options.has_dialogues:
        grammars.append(dialogues_en.GRAMMAR.fingerprint())
    else:
        unset |= {name for name in Options.model_fields if name.endswith("dialogues")}
    phonemes = (corpus.phonemes,) if corpus.phonemes else ()
    return _digest(VERSION, options.model_dump_json(exclude=unset), grammars, installed(), *phonemes)


def options_of(corpus: Corpus) -> Options:
    """The validated options. Raises CorpusError; for an unknown option with the nearest known one."""
    check_options(corpus, Options.model_fields)
    try:
        return Options.model_validate(corpus.options)
    except ValidationError as error:
        where = f"corpora.{corpus.name}.options"
        lines = [f"{where}.{'.'.join(map(str, e['loc']))}: {e['msg']} (given {e['input']!r})" for e in error.errors()]
        raise CorpusError("\n".join(lines)) from None


def split_of(text: str) -> str:
    """The split of a sentence, by its hash alone: independent of seed and options.

    With translations, the hash is of the German sentence, which several English ones may share, so
    that neither a sentence nor its translation is in two splits.
    """
    position = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    for split, share in SENTENCE_SHARES.items():
        position -= share
        if position < 0:
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
        voice, style = _voice_and_style(rng, voices[language])
        noise = None
        if options.noise_db:
            low, high = options.noise_db
            noise = (low + rng.random() * (high - low), int(rng.random() * 2**31))
        for emotion in STYLES if all_styles else (style,):
            name = f"{split}-{number:06d}-{emotion}" if all_styles else f"{split}-{number:06d}"
            yield replace(
                _row(name, split, sentence, language, translation),
                recording=_recording(name, sentence.text, sentence.question, styled(voice, emotion), noise),
                speaker=voice.name,
                labels={**_labels(sentence, translation), "emotion": emotion},
            )


def _dialogues(options: Options, split: str, count: int, spoken: bool) -> Iterator[Utterance]:
    """The user turns of `count` dialogues with their contexts; one speaker and style per dialogue.

    A dialogue's split is given by the hash of all its words; a short turn such as "yes" is in every split.
    """
    voices = options.voices(split)
    for number in range(count):
        rng = Random(f"{options.seed}/dialogue/{split}/{'spoken' if spoken else 'text'}/{number}")
        turns = dialogues_en.draw(rng)
        while split_of(" / ".join((*turns[-1].context, turns[-1].text))) != split:
            turns = dialogues_en.draw(rng)
        voice, style = _voice_and_style(rng, voices)
        for index, turn in enumerate(turns):
            name = f"{split if spoken else 'text'}-dialogue-{number:05d}-{index}"
            yield Utterance(
                id=name,
                split=split,
                recording=_recording(name, turn.text, turn.question, styled(voice, style)) if spoken else None,
                text=turn.text,
                speaker=voice.name if spoken else None,
                language="en",
                labels={"emotion": style if spoken else None, "dialogue_act": turn.act, "system_action": turn.action},
                context=list(turn.context),
                file="espeak",
            )


def _text_only(options: Options) -> Iterator[Utterance]:
    seen: set[str] = set()
    for number in range(options.text_only_sentences):
        language = options.languages[number % len(options.languages)]
        rng = Random(f"{options.seed}/{language}/text/{number}")
        sentence, translation = _sentence(rng, language, options, "train", seen)
        yield _row(f"text-{number:06d}", "train", sentence, language, translation)


def _voice_and_style(rng: Random, voices: list[Voice]) -> tuple[Voice, str]:
    voice = voices[int(rng.random() * len(voices))]
    return voice, weighted(rng, list(STYLE_WEIGHTS), list(STYLE_WEIGHTS.values()))


def _recording(name: str, text: str, question: bool, voice: Voice, noise: tuple[float, int] | None = None) -> Recording:
    text += "?" if question else ""
    return Recording(
        load=partial(render, text, voice, noise),
        name=f"{name}.flac",
        stamp=_digest(VERSION, text, astuple(voice), noise, installed()),
    )


def _row(name: str, split: str, sentence: Sentence, language: str, translation: str | None) -> Utterance:
    return Utterance(
        id=name,
        split=split,
        text=sentence.text,
        tokens=list(sentence.tokens),
        slots=list(sentence.slots),
        language=language,
        labels=_labels(sentence, translation),
        file="espeak",
    )


def _labels(sentence: Sentence, translation: str | None) -> dict[str, str | None]:
    return {"intent": sentence.intent, "domain": sentence.domain, "translation": translation}


def _sentence(rng: Random, language: str, options: Options, split: str, seen: set[str]) -> tuple[Sentence, str | None]:
    """A sentence of the split and its translation; a new one if 100 draws suffice."""
    for attempt in range(1000):
        if options.parallel:
            english, german = commands.ENGLISH_TO_GERMAN.draw(rng)
            sentence, other = (german, english) if language == "de" else (english, german)
            translated = len(options.languages) > 1 or options.translate is not None
            translation, hashed = other.text if translated else None, german.text
        else:
            sentence, translation = commands.ENGLISH.draw(rng), None
            hashed = sentence.text
        if split_of(hashed) == split and (sentence.text not in seen or attempt >= 100):
            seen.add(sentence.text)
            return sentence, translation
    raise CorpusError(f"the {language} grammar has no sentence for the {split} split; SENTENCE_SHARES leave it none")


def _phonemes(utterance: Utterance) -> tuple[tuple[str, float, float], ...]:
    """Symbol, start and end (s) of each phoneme of a spoken utterance, pauses included."""
    loader: Any = utterance.recording and utterance.recording.load  # partial(render, text, voice, noise)
    text, voice, _noise = loader.args
    return speak(text, voice).phonemes


def _with_phones(utterance: Utterance) -> Utterance:
    phonemes = _phonemes(utterance)
    return replace(utterance, phones=[symbol for symbol, _, _ in phonemes], phone_ends=[end for _, _, end in phonemes])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def phonemes_of(corpus: Corpus, split: str) -> Iterator[tuple[str, tuple[tuple[str, float, float], ...]]]:
    """Id and phonemes (symbol, start in s, end in s) of each recording of a split, without pauses."""
    options = options_of(corpus)
    for utterance in _spoken(options, split, options.counts[split]):
        phonemes = _phonemes(utterance)
        yield utterance.id, tuple((s, start, end) for s, start, end in phonemes if s != PAUSE and start < end)


READER = Reader(read, fingerprint_of)
