"""A model as a folder that MLflow loads: code, safetensors, signature, example, pinned requirements; no pickle.

save_package(predictor_folder, Path("package"))        # an MLflow model (models-from-code), see packaged_model.py
predictor_folder(Path("package"))                      # the Predictor folder inside
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import math
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl.address import folder_address
from mtl.answers import KINDS
from mtl.decoding.hot_words import WEIGHT
from mtl.groups import groups_read_by
from mtl.spec import TEXT, first_with_answer, makes_sound, speaks, with_context
from mtl.spec import task as task_spec
from mtl.tts.phonemes import CHARACTERS
from pipelines.core.environment import quiet_mlflow

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

PACKAGED = Path(__file__).with_name("packaged_model.py")
ARTIFACT = "predictor"  # the package's name for the Predictor folder; packaged_model.py says the same
ADAPTER = "adapter"  # its name for a user's adapter, likewise
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "soundfile", "soxr")
SPEAKING = ("num2words",)  # of a model that speaks; and of one whose phonemes are eSpeak NG's, the next
ESPEAK = ("espeakng-loader",)
TYPES = {"string": "string", "double": "double", "json": "string"}  # types of served columns -> MLflow's
SOUNDED = ("praat-parselmouth",)  # of what makes sound of recordings, and has to know their pitch


class PackageError(ValueError):
    """A folder that is no model; the message says what it should hold."""


@dataclass(frozen=True)
class Description:
    """What a Predictor folder says of itself. address: hash of its files; units: "sentencepiece" where any are;
    phonemes: of a model that speaks (mtl.tts.phonemes), None of any other."""

    address: str
    parameters: int
    tasks: tuple[str, ...]
    units: str
    domains: tuple[str, ...] = ()  # of recordings that the model is told of
    phonemes: str | None = None


def save_package(folder: Path, package: Path, model_id: str | None = None, run_id: str | None = None) -> None:
    """Writes an MLflow model folder around a Predictor folder; the ids are those that MLflow gave the model, if any.

    Raises:
        PackageError: `folder` is not what Predictor.save writes.
    """
    described = describe(folder)
    _save(ARTIFACT, folder, described, package, model_id, run_id)


def save_adapter_package(
    adapter: Path, base: Description, package: Path, model_id: str | None = None, run_id: str | None = None
) -> None:
    """The same around a user's adapter (mtl.inference.adaptation)."""
    _save(ADAPTER, adapter, base, package, model_id, run_id)


def _save(
    name: str, content: Path, described: Description, package: Path, model_id: str | None, run_id: str | None
) -> None:
    quiet_mlflow()
    import mlflow.pyfunc
    from mlflow.models import Model

    import mtl

    with tempfile.TemporaryDirectory() as scratch:
        # The artifact keeps its name, which in a store is a hash; and bytecode of mtl is no part of a package.
        artifact = Path(scratch) / name
        (shutil.copytree if content.is_dir() else shutil.copyfile)(content, artifact)
        code = shutil.copytree(
            Path(mtl.__file__).parent, Path(scratch) / "mtl", ignore=shutil.ignore_patterns("__pycache__")
        )
        mlflow.pyfunc.save_model(
            path=str(package),
            python_model=str(PACKAGED),
            artifacts={name: str(artifact)},
            code_paths=[str(code)],
            signature=signature(described.tasks, described.domains),
            input_example=example(described.tasks),
            pip_requirements=requirements(described.units, described.phonemes, described.tasks),
            mlflow_model=Model(model_id=model_id, run_id=run_id),
        )


def signature(tasks: tuple[str, ...], domains: tuple[str, ...] = ()) -> ModelSignature:
    """Inputs `audio`, `text` and those of further groups that a task reads, of which a row has one; outputs by task,
    each null where the task is silent.

    A model of dialogues also takes `context`: the turns before, oldest first.

    A model that transcribes has parameters for a whole call: hot words, what their characters are worth, and how many
    transcripts are wanted; see packaged_model.py. One that is told of domains has the parameter `domain`.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    def optional(name: str, kind: DataType = DataType.string) -> ColSpec:
        return ColSpec(kind, name, required=False)

    added = [group.source for group in groups_read_by(tasks) if group.column]
    inputs: list[Any] = [optional(name) for name in ("audio", "text", *added)]
    if with_context(tasks):
        inputs.append(ColSpec(Array(DataType.string), "context", required=False))
    outputs: list[Any] = [optional("speech")] if speaks(tasks) or makes_sound(tasks) else []
    for task in tasks:
        columns = KINDS[task_spec(task).answer].columns(task)
        outputs += [optional(name, DataType[TYPES[kind]]) for name, kind in columns.items()]
    params = []
    if first_with_answer(tasks, "text"):
        params += [
            ParamSpec("hot_words", DataType.string, [], shape=(-1,)),
            ParamSpec("hot_weight", DataType.double, WEIGHT),
            ParamSpec("n_best", DataType.long, 1),
        ]
    if speaks(tasks):
        params += [
            ParamSpec("speaker", DataType.string, ""),
            ParamSpec("emotion", DataType.string, ""),
            ParamSpec("rate", DataType.double, 1.0),
        ]
    if domains:
        params.append(ParamSpec("domain", DataType.string, ""))
    parameters = {"params": ParamSchema(params)} if params else {}
    return ModelSignature(Schema(inputs), Schema(outputs), **parameters)


def example(tasks: tuple[str, ...]) -> pd.DataFrame:
    """One row that the model can answer: a sentence, the example of an added group, or half a second of a tone."""
    import numpy as np
    import pandas as pd
    import soundfile

    if any(TEXT in task_spec(name).groups for name in tasks) or speaks(tasks):
        return pd.DataFrame({"text": ["turn on the light in the kitchen"]})
    for one in groups_read_by(tasks):
        if one.example:
            return pd.DataFrame({one.source: [one.example]})
    tone = io.BytesIO()
    soundfile.write(tone, 0.1 * np.sin(np.arange(8000) * 2 * np.pi * 440 / 16000), 16000, format="FLAC")
    return pd.DataFrame({"audio": [base64.b64encode(tone.getvalue()).decode()]})


def requirements(units: str, phonemes: str | None = None, tasks: Collection[str] = ()) -> list[str]:
    """What the package needs to load and answer, at the versions it was made with."""
    names = [*REQUIREMENTS, *(("sentencepiece",) if units == "sentencepiece" else ())]
    if phonemes is not None:
        names += [*SPEAKING, *(() if phonemes == CHARACTERS else ESPEAK)]
    if makes_sound(tasks) or first_with_answer(tasks, "phones"):
        names += SOUNDED
    # "2.13.0+cpu" is a build of 2.13.0: a package made on a laptop must install on a machine with a GPU.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def describe(folder: Path) -> Description:
    """Reads the headers alone, not the weights. Raises PackageError."""
    from safetensors import safe_open

    if not (folder / "model.json").is_file():
        raise PackageError(f"{folder} holds no model.json; expected a folder that Predictor.save wrote")
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    kinds = {(content["codec"].get(of) or {}).get("kind") for of in ("units", "targets")}
    with safe_open(folder / "weights.safetensors", framework="numpy") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 (it is no mapping)
    return Description(
        address=folder_address(folder),
        parameters=sum(math.prod(shape) for shape in shapes),
        tasks=tuple(content["model"]["tasks"]),
        units="sentencepiece" if "sentencepiece" in kinds else "characters",
        domains=tuple(content["codec"].get("domains", {}).get("names", ())),
        phonemes=content["codec"].get("speech", {}).get("phonemes"),
    )


def predictor_folder(folder: Path) -> Path:
    """The Predictor folder that a package holds, or the folder itself when it is one. Raises PackageError."""
    if (folder / "model.json").is_file():
        return folder
    if (artifact := _artifact(folder, ARTIFACT)) is not None:
        return artifact
    if adapter_file(folder) is not None:
        raise PackageError(f"{folder} holds a user's adapter and no model of its own; name the base that it is for")
    raise PackageError(f"{folder} is no model: it holds neither model.json nor a package of Motet's (MLmodel)")


def adapter_file(folder: Path) -> Path | None:
    """The adapter that a package holds, if it holds one."""
    return _artifact(folder, ADAPTER)


def _artifact(folder: Path, name: str) -> Path | None:
    if not (folder / "MLmodel").is_file():
        return None
    from mlflow.models import Model

    artifacts = Model.load(str(folder)).flavors.get("python_function", {}).get("artifacts", {})
    return folder / artifacts[name]["path"] if name in artifacts else None
