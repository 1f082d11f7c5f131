"""Commands that synthesise speech: say, convert."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.console import RootOption, app
from pipelines.core import environment

VocoderOption = Annotated[
    str | None,
    typer.Option("--vocoder", metavar="NAME", help="Registered model with a vocoder; Griffin-Lim if left out."),
]


@app.command()
def say(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Or --file, or --lines.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.wav", help="A folder with --lines; -: 16-bit samples to stdout.")
    ] = Path("said.wav"),
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Registered model that synthesises.")
    ] = "expressive",
    speaker: Annotated[
        str | None, typer.Option("--speaker", metavar="NAME", help="The first of the model if left out.")
    ] = None,
    emotion: Annotated[str | None, typer.Option("--emotion", metavar="NAME", help="Neutral if left out.")] = None,
    rate: Annotated[float, typer.Option("--rate", help="Speaking rate; 2 is twice as fast.")] = 1.0,
    file: Annotated[
        Path | None, typer.Option("--file", exists=True, dir_okay=False, help="A text, into one recording.")
    ] = None,
    lines: Annotated[
        Path | None,
        typer.Option("--lines", exists=True, dir_okay=False, help="A text, into one recording per line: 0001.wav …"),
    ] = None,
    espeak: Annotated[
        str | None,
        typer.Option("--espeak", metavar="VARIANT", help="Use this voice of eSpeak NG instead, e.g. f3."),
    ] = None,
    vocoder: VocoderOption = None,
    root: RootOption = environment.ROOT,
) -> None:
    """Synthesises a text with a trained model; writes each sentence as soon as it is synthesised.

    Example: `motet say "Dinner is ready." --emotion excited -o dinner.wav`
    """
    from pipelines.adhoc import speech

    if sum(source is not None for source in (text, file, lines)) != 1:
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
        recordings = voice.say(speech.lines_of(lines), speaker, emotion, rate)
        for number, samples in enumerate(recordings, start=1):
            with speech.Sound(out / f"{number:04d}.wav", voice.features.sample_rate) as sound:
                sound.write(samples)
        seconds = sum(map(len, recordings)) / voice.features.sample_rate
        print(f"{out}: {len(recordings)} recordings, {seconds:.1f} s of synthetic speech", file=sys.stderr)
        return
    whole = text if text is not None else "\n".join(speech.lines_of(file or Path()))
    parts = speech.sentences_spoken(voice, whole, speaker, emotion, rate)
    first = next(parts, None)  # before the file is created: an unknown speaker leaves no file
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
        typer.Option("--emotion", metavar="NAME", help="Target emotion; that of the recording if left out."),
    ] = None,
    speaker: Annotated[
        str | None, typer.Option("--speaker", metavar="NAME", help="Target speaker; that of the recording if left out.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.wav", help="-: 16-bit samples to stdout.")] = Path(
        "converted.wav"
    ),
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="NAME", help="Registered model with the tasks of synthesis and phone recognition."
        ),
    ] = "expressive",
    vocoder: VocoderOption = None,
    root: RootOption = environment.ROOT,
) -> None:
    """Converts a recording to another emotion or another speaker; words and tempo stay.

    Example: `motet convert dinner.wav --emotion sad -o sad.wav`
    """
    from pipelines.adhoc import speech

    if emotion is None and speaker is None:
        raise typer.BadParameter("give --emotion, or --speaker, or both")
    environment.prepare(root)
    converted, rate = speech.converted(root, model, file, emotion, speaker, vocoder)
    with speech.Sound(out, rate) as sound:
        sound.write(converted.samples)
    labels = ", ".join(name for name in (converted.speaker, converted.emotion) if name)
    phones = " ".join(converted.phones)
    print(f"{file}: recognised {phones}{f' ({labels})' if labels else ''}", file=sys.stderr)
    print(f"{out}: {sound.seconds:.1f} s of synthetic speech", file=sys.stderr)
