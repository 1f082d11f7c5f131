"""Speakers and speaking styles of the demo corpus: accents, variants and prosody settings of eSpeak NG.

A speaker is one accent, variant (formants and voice quality), pitch, pitch range and rate, drawn once. Accents occur
in every split, a variant in one split only, so the speakers of the test split are unseen in training.

Variants were selected by level, clipping, pitch, share of voiced frames, length and long-term spectrum. Excluded:

- almost no voiced frames: whisper, whisperf, croak, grandpa, klatt, klatt2, ian;
- robots, effects and echoes: robosoft to robosoft8, UniRobot, anikaRobot, announcer, Demonic, RicishayMax to
  RicishayMax3, caleb (no voicing, 360 Hz), zac (360 Hz);
- spectra unlike speech, or heavy clipping: ed, iven, iven2, iven3, paul, Jacky, norbert, kaukovalta, steph2, steph3;
- different timing or intonation: Marco and AnxiousAndy (a third slower), anika (the same melody in every phrase);
- Storm, which changes the language, and fast, which only changes the rate;
- near-duplicates of an included variant (log spectra within 0.15): Gene2, klatt6, edward2; or of one in another
  split: Henrique, gustave, robert, john, "Mr serious".

Andy is in no split, so it can serve as an unseen voice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from pipelines.synthetic.grammar import pick

# Voice files of eSpeak NG, in lower case: America, Great Britain, Received Pronunciation, New York.
# eSpeak has four more English accents; each one lengthens training by minutes on a laptop.
ACCENTS = {"en": ("gmw/en-us", "gmw/en", "gmw/en-gb-x-rp", "gmw/en-us-nyc"), "de": ("gmw/de",)}

VARIANTS = {
    "train": (
        *("f1", "m1", "f2", "m2", "f4", "m4", "f5", "m7", "Annie", "m8", "Andrea", "Alex", "grandma", "Denis"),
        *("shelby", "Diogo", "steph", "Gene", "Alicia", "Hugo", "Lee", "Mario", "Nguyen", "Tweaky", "adam"),
        *("antonio", "benjamin", "boris", "david", "edward", "klatt4", "marcelo", "max", "michel", "pablo"),
        *("quincy", "rob", "travis"),
    ),
    "valid": ("aunty", "m6", "pedro", "iven4", "klatt5", "sandro"),
    "test": ("f3", "m3", "belinda", "m5", "linda", "Michael", "Mike", "Reed", "victor", "mike2", "klatt3", "miguel"),
}

# Ranges of a speaker's settings, drawn uniformly, in eSpeak's units (rate in words per minute, the others 0 to 99).
RATES = (125, 160)
PITCHES = (35, 65)
RANGES = (35, 65)
LEVELS = (-26, -22)  # dBFS, RMS


@dataclass(frozen=True)
class Voice:
    """eSpeak's settings. rate: words per minute; pitch, range: 0 to 99; level: dBFS (RMS)."""

    accent: str = "gmw/en-us"
    variant: str = "f3"
    rate: int = 145
    pitch: int = 50
    range: int = 50
    level: float = -24.0

    @property
    def name(self) -> str:
        accent = self.accent.removeprefix("gmw/")
        return f"{accent}+{self.variant}-r{self.rate}-p{self.pitch}-i{self.range}"


@dataclass(frozen=True)
class Style:
    """Changes to a voice: rate (factor), pitch and range (added), gain (dB)."""

    rate: float = 1.0
    pitch: int = 0
    range: int = 0
    gain: float = 0.0


# Synthetic styles, made of four parameters; the label `emotion` names the style. The directions follow Murray and
# Arnott (1993): joy and anger are faster, higher, wider in pitch and louder; sadness is the opposite.
STYLES = {
    "neutral": Style(),
    "excited": Style(rate=1.18, pitch=20, range=32, gain=5.0),
    "sad": Style(rate=0.82, pitch=-15, range=-30, gain=-6.0),
}
STYLE_WEIGHTS = {"neutral": 2.0, "excited": 1.0, "sad": 1.0}


def styled(voice: Voice, style: str) -> Voice:
    """The same speaker in another style."""
    change = STYLES[style]
    return replace(
        voice,
        rate=round(voice.rate * change.rate),
        pitch=min(99, max(0, voice.pitch + change.pitch)),
        range=min(99, max(0, voice.range + change.range)),
        level=voice.level + change.gain,
    )


def speakers(
    split: str, count: int, seed: int, language: str = "en", accents: tuple[str, ...] | None = None
) -> list[Voice]:
    """The first `count` speakers of a split; a larger count only appends speakers.

    Each variant is used once before any is used again, with the next of `accents` (default: all of the language).
    """
    variants, accents = VARIANTS[split], accents or ACCENTS[language]
    voices = []
    for number in range(count):
        rng = Random(f"{seed}/speaker/{language}/{split}/{number}")
        cycle, index = divmod(number, len(variants))
        rate, pitch, range_, level = (pick(rng, range(low, high + 1)) for low, high in (RATES, PITCHES, RANGES, LEVELS))
        voices.append(
            Voice(accents[(index + cycle) % len(accents)], variants[index], rate, pitch, range_, float(level))
        )
    return voices
