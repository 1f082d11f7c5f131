"""Who speaks in the embedded corpus, and how: accents, variants, speakers and speaking styles of eSpeak NG.

A speaker is one accent, one variant (the shape of the throat, so to say), one pitch, one pitch range and one rate,
drawn once. Accents are heard in every split; a variant is heard in one split only, so that a voice of the test
split is a voice that training never heard.

Variants were chosen by measuring: each was synthesised, and its level, clipping, pitch, share of voiced frames, length
and long-term spectrum compared with the plain voice and with every other variant. Left out are:

- whispers and creaks, which have next to no voiced frames: whisper, whisperf, croak, grandpa, klatt, klatt2, ian;
- robots, effects and echoes that nobody sounds like: robosoft to robosoft8, UniRobot, anikaRobot, announcer,
  Demonic, RicishayMax to RicishayMax3, caleb (no voicing, 360 Hz), zac (360 Hz);
- spectra far from speech or heavy clipping: ed, iven, iven2, iven3, paul, Jacky, norbert, kaukovalta,
  steph2, steph3;
- other timing than the rest: Marco and AnxiousAndy (a third slower), anika (every phrase in one melody);
- Storm, which switches the language, and fast, which only switches the rate;
- twins of a variant that is in (log spectra within 0.15): Gene2, klatt6, edward2, or in another split's
  family: Henrique, gustave, robert, john, "Mr serious".

Andy is in no split: a voice that neither training nor a test has heard, for trying things out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from pipelines.synthetic.grammar import pick

# eSpeak NG's names of its voices. English: America, New York, Great Britain, Received Pronunciation. It has Scotland,
# Lancaster, the Caribbean and the West Midlands too; each more accent takes minutes more to learn, on a laptop.
# By file, in lower case as eSpeak looks for them: "en-gb" alone is not found.
ACCENTS = {
    "en": (
        "gmw/en-us",
        "gmw/en",
        "gmw/en-gb-x-rp",
        "gmw/en-us-nyc",
    ),
    "de": ("gmw/de",),
}

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

# Drawn evenly, once for a speaker; eSpeak's own scales (rate in words a minute, the other two 0 to 99, 50 normal).
RATES = (125, 160)
PITCHES = (35, 65)
RANGES = (35, 65)
LEVELS = (-26, -22)  # dBFS, RMS


@dataclass(frozen=True)
class Voice:
    """How eSpeak speaks. accent, variant: its names; rate: words a minute; pitch, range: 0 to 99; level: dBFS (RMS)."""

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
    """What a speaking style does to a voice: rate (factor), pitch and range (added), gain (dB)."""

    rate: float = 1.0
    pitch: int = 0
    range: int = 0
    gain: float = 0.0


# Acted by four parameters alone: a synthetic style, and the label `emotion` says no more than which of them it was.
# Directions follow Murray and Arnott (1993): joy and anger faster, higher, wider and louder; sadness the reverse.
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
    """The first `count` speakers of a split; asking for more adds to the end and changes none.

    Goes through every variant before it repeats one, each time with the next accent, of `accents` or all there are.
    """
    variants, accents = VARIANTS[split], accents or ACCENTS[language]
    drawn = []
    for number in range(count):
        rng = Random(f"{seed}/speaker/{language}/{split}/{number}")
        turn, place = divmod(number, len(variants))
        drawn.append(
            Voice(
                accent=accents[(place + turn) % len(accents)],
                variant=variants[place],
                rate=_between(rng, RATES),
                pitch=_between(rng, PITCHES),
                range=_between(rng, RANGES),
                level=float(_between(rng, LEVELS)),
            )
        )
    return drawn


def _between(rng: Random, bounds: tuple[int, int]) -> int:
    return pick(rng, range(bounds[0], bounds[1] + 1))
