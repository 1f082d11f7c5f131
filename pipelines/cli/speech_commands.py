"""Commands that make sound: say, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import RootOption, app
from pipelines.core import environment

VocoderOption = Annotated[
    str | None,
    typer.Option(
        "--vocoder", metavar="NAME", help="A registered model with the task waveform, for the sound; else Griffin-Lim."
    ),
]


@app.command()
def say(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Or --file, or --lines.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.wav", help="A folder with --lines; -: 16-bit samples to stdout.")
    ] = Path("said.wav"),
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A registered model that speaks.")
    ] = "expressive",
    speaker: Annotated[
        str | None, typer.Option("--speaker", metavar="NAME", help="The model's first if left out.")
    ] = None,
    emotion: Annotated[str | None, typer.Option("--emotion", metavar="NAME", help="Neutral if left out.")] = None,
    rate: Annotated[float, typer.Option("--rate", help="Of speech; 2 is twice as fast.")] = 1.0,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="A text to be read into one recording.")
    ] = None,
    lines: Annotated[
        Path | None, typer.Option("--lines", exists=True, dir_okay=False, help="A recording for each line: 0001.wav …")
    ] = None,
    espeak: Annotated[
        str | None,
        typer.Option("--espeak", metavar="VARIANT", help="By eSpeak NG instead, e.g. f3: to try a model on."),
    ] = None,
    vocoder: VocoderOption = None,
    root: RootOption = environment.ROOT,
) -> None:
    """Speaks a text, sentence by sentence as they are made, by a model that was trained to.

    Example: `motet say "Dinner is ready." --emotion excited -o dinner.wav`
    """
    from pipelines.adhoc import speech

    if sum(given is not None for given in (text, file, lines)) != 1:
        raise typer.BadParameter("give one of: a TEXT, --file FILE, --lines FILE")
    if espeak is not None:
        samples, hertz = speech.by_espeak(text or (file or lines or Path()).read_text(encoding="utf-8"), espeak)
        with speech.Sound(out, hertz) as sound:
            sound.write(samples)
        print(f"{out}: {sound.seconds:.1f} s of synthetic speech by eSpeak NG", file=sys.stderr)
        return
    environment.prepare(root)
    voice = speech.voice_of(root, model, vocoder)
    if lines is not None:
        said = voice.say(speech.lines_of(lines), speaker, emotion, rate)
        for number, samples in enumerate(said, start=1):
            with speech.Sound(out / f"{number:04d}.wav", voice.features.sample_rate) as sound:
                sound.write(samples)
        seconds = sum(map(len, said)) / voice.features.sample_rate
        print(f"{out}: {len(said)} recordings, {seconds:.1f} s of synthetic speech", file=sys.stderr)
        return
    whole = text if text is not None else "\n".join(speech.lines_of(file or Path()))
    parts = speech.sentences_spoken(voice, whole, speaker, emotion, rate)
    first = next(parts, None)  # before anything is written: a speaker that is not there leaves no file
    if first is None:
        raise speech.SayError("nothing in the text can be said")
    with speech.Sound(out, voice.features.sample_rate) as sound:
        sound.write(first)
        for samples in parts:
            sound.write(samples)
    print(f"{out}: {sound.seconds:.1f} s of synthetic speech", file=sys.stderr)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="IN.wav", help="WAV, FLAC, OGG, MP3, AIFF.")],
    emotion: Annotated[
        str | None,
        typer.Option("--emotion", metavar="NAME", help="To be said with; the one that is heard if left out."),
    ] = None,
    speaker: Annotated[
        str | None, typer.Option("--speaker", metavar="NAME", help="To say it; the one that is heard if left out.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.wav", help="-: 16-bit samples to stdout.")] = Path(
        "converted.wav"
    ),
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A registered model that speaks and hears phones.")
    ] = "expressive",
    vocoder: VocoderOption = None,
    root: RootOption = environment.ROOT,
) -> None:
    """Says a recording again with another emotion, or in another voice: the words stay, and the tempo.

    Example: `motet convert dinner.wav --emotion sad -o sad.wav`
    """
    from pipelines.adhoc import speech

    if emotion is None and speaker is None:
        raise typer.BadParameter("give --emotion, or --speaker, or both")
    environment.prepare(root)
    converted, rate = speech.converted(root, model, file, emotion, speaker, vocoder)
    with speech.Sound(out, rate) as sound:
        sound.write(converted.samples)
    heard = ", ".join(name for name in (converted.speaker, converted.emotion) if name)
    phones = " ".join(converted.phones)
    print(f"{file}: heard {phones}{f' ({heard})' if heard else ''}", file=sys.stderr)
    print(f"{out}: {sound.seconds:.1f} s of synthetic speech", file=sys.stderr)
