"""How fast a model speaks, as a share of the time that its speech lasts, part by part.

    python tests/bench/synthesis_bench.py [--rounds 5]

A model of the recipe `expressive` on one core, with the weights that it starts with (trained ones take the same time),
told to give each phone 7 frames of 10 ms, as English has them. Sentences one at a time, as `motet say` makes them:
phonemes by eSpeak NG, then log-mels, then Griffin-Lim of 32 iterations. Medians over rounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from targets import Target, conclude  # noqa: E402

from mtl.audio.features import bin_centres  # noqa: E402
from mtl.inference.predictor import Predictor  # noqa: E402
from mtl.inference.synthesizer import Synthesizer  # noqa: E402
from mtl.inputs.codec import Codec  # noqa: E402
from mtl.inputs.tts import Scale, SpeechCode  # noqa: E402
from mtl.models.joint import build_model  # noqa: E402
from mtl.tts.phonemes import Phonemiser  # noqa: E402
from pipelines.recipe import load  # noqa: E402
from pipelines.training.prepare import model_config  # noqa: E402

SENTENCES = (
    "Dinner is ready.",
    "Turn on the light in the kitchen, please.",
    "What will the weather be like in New York on the third of May, and will it rain in the afternoon?",
    "Play some quiet music in the living room and set the volume to thirty percent.",
)
FRAMES_A_PHONE = 7


def voice() -> Synthesizer:
    recipe = load("expressive")
    phonemes = next(corpus.phonemes for corpus in recipe.corpora if corpus.phonemes) or ""
    phones = sorted({phone for text in SENTENCES for phone in Phonemiser(phonemes)(text)})
    pitch, energy, mel = Scale(math.log(150), 0.3), Scale(0.0, 1.0), (Scale(-6.0, 2.0),) * recipe.features.bins
    hertz = tuple(bin_centres(recipe.features).tolist())
    speech = SpeechCode(
        phonemes, tuple(phones), ("a", "b"), ("neutral",), pitch, energy, mel, hertz, (1.0,) * len(phones)
    )
    codec = Codec.build([{"speaker": name, "emotion": "neutral", "text": "a"} for name in "ab"], tuple(recipe.tasks))
    torch.manual_seed(recipe.seed)
    model = build_model(model_config(recipe), Codec(**{**codec.__dict__, "speech": speech}))
    with torch.no_grad():
        model.tasks["prosody"].output.weight.zero_()  # type: ignore[union-attr, operator]
        model.tasks["prosody"].output.bias.copy_(torch.tensor([math.log1p(FRAMES_A_PHONE), 0.0, 0.0]))  # type: ignore[union-attr, operator]
    return Synthesizer(Predictor(model, recipe.features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    speaker = voice()
    parts: dict[str, list[float]] = {"phonemes": [], "log-mels": [], "vocoder": []}
    for number in range(rounds + 1):  # the first warms everything up, and is not counted
        spent, lasts = dict.fromkeys(parts, 0.0), 0.0
        for text in SENTENCES:
            began = time.perf_counter()
            phones = speaker.phones(text)
            said = time.perf_counter()
            (uttered,) = speaker.synthesize([phones])
            shown = time.perf_counter()
            samples = speaker.sound(uttered.mel, uttered.hertz)
            heard = time.perf_counter()
            for part, seconds in zip(parts, (said - began, shown - said, heard - shown), strict=True):
                spent[part] += seconds
            lasts += len(samples) / speaker.features.sample_rate
        if number:
            for part, seconds in spent.items():
                parts[part].append(seconds / lasts)
    parameters = sum(p.numel() for p in speaker.model.parameters())
    print(f"{parameters:,} parameters, {len(SENTENCES)} sentences, one core; medians of {rounds} rounds")
    for part, factors in parts.items():
        print(f"{part:12}{statistics.median(factors):8.4f} of real time")
    total = statistics.median(map(sum, zip(*parts.values(), strict=True)))
    conclude(Target("real time factor of say", total, at_most=0.1))


if __name__ == "__main__":
    main()
