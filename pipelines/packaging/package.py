"""The model package: a folder with code, safetensors, signature, example and requirements, without pickle.

save_package(predictor_folder, Path("package"))        # an MLflow model, see packaged_model.py
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
ARTIFACT = "predictor"  # name of the Predictor folder in the package, as in packaged_model.py
ADAPTER = "adapter"  # name of a user's adapter, likewise
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "soundfile", "soxr")
SYNTHESIS = ("num2words",)  # for models that synthesise
ESPEAK = ("espeakng-loader",)  # for phonemes by eSpeak NG
TYPES = {"string": "string", "double": "double", "json": "string"}  # types of served columns -> MLflow's
PITCH = ("praat-parselmouth",)  # for models that read the pitch of recordings


class PackageError(ValueError):
    """A folder that is not a model; the message says what was expected."""


@dataclass(frozen=True)
class Description:
    """Content of a Predictor folder.

    address: hash of its files. units: "sentencepiece" if any are, else "characters". domains: that the model is
    conditioned on. phonemes: of a model that synthesises (mtl.tts.phonemes).
    """

    address: str
    parameters: int
    tasks: tuple[str, ...]
    units: str
    domains: tuple[str, ...] = ()
    phonemes: str | None = None


def save_package(folder: Path, package: Path, model_id: str | None = None, run_id: str | None = None) -> None:
    """Writes an MLflow model folder around a Predictor folder. model_id, run_id: of MLflow.

    Raises:
        PackageError: `folder` was not written by Predictor.save.
    """
    _save(ARTIFACT, folder, describe(folder), package, model_id, run_id)


def save_adapter_package(
    adapter: Path, base: Description, package: Path, model_id: str | None = None, run_id: str | None = None
) -> None:
    """Writes an MLflow model folder around a user's adapter (mtl.inference.adaptation)."""
    _save(ADAPTER, adapter, base, package, model_id, run_id)


def _save(
    name: str, content: Path, described: Description, package: Path, model_id: str | None, run_id: str | None
) -> None:
    quiet_mlflow()
    import mlflow.pyfunc
    from mlflow.models import Model

    import mtl

    with tempfile.TemporaryDirectory() as scratch:
        # In a store, the name of the folder is a hash.
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
    """Signature of a package.

    Inputs, one per row: `audio`, `text`, and those of other groups that a task reads; for dialogues also `context`,
    the earlier turns, oldest first. Outputs by task, null if the task gives no answer. Parameters of a call: hot words,
    their weight and the number of transcripts if the model transcribes; speaker, emotion and rate if it synthesises;
    `domain` if it is conditioned on domains.
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
    """One row that the model can read: a sentence, the example of an input group, or half a second of a tone."""
    import numpy as np
    import pandas as pd
    import soundfile

    if any(TEXT in task_spec(name).groups for name in tasks) or speaks(tasks):
        return pd.DataFrame({"text": ["turn on the light in the kitchen"]})
    for group in groups_read_by(tasks):
        if group.example:
            return pd.DataFrame({group.source: [group.example]})
    tone = io.BytesIO()
    soundfile.write(tone, 0.1 * np.sin(np.arange(8000) * 2 * np.pi * 440 / 16000), 16000, format="FLAC")
    return pd.DataFrame({"audio": [base64.b64encode(tone.getvalue()).decode()]})


def requirements(units: str, phonemes: str | None = None, tasks: Collection[str] = ()) -> list[str]:
    """Requirements of the package, at the installed versions."""
    names = [*REQUIREMENTS, *(("sentencepiece",) if units == "sentencepiece" else ())]
    if phonemes is not None:
        names += [*SYNTHESIS, *(() if phonemes == CHARACTERS else ESPEAK)]
    if makes_sound(tasks) or first_with_answer(tasks, "phones"):
        names += PITCH
    # "2.13.0+cpu" becomes "2.13.0", so that the package also installs on a machine with a GPU.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def describe(folder: Path) -> Description:
    """Reads the headers of a Predictor folder, not the weights. Raises PackageError."""
    from safetensors import safe_open

    if not (folder / "model.json").is_file():
        raise PackageError(f"{folder} has no model.json; expected a folder written by Predictor.save")
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    kinds = {(content["codec"].get(of) or {}).get("kind") for of in ("units", "targets")}
    with safe_open(folder / "weights.safetensors", framework="numpy") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 (not a mapping)
    return Description(
        address=folder_address(folder),
        parameters=sum(math.prod(shape) for shape in shapes),
        tasks=tuple(content["model"]["tasks"]),
        units="sentencepiece" if "sentencepiece" in kinds else "characters",
        domains=tuple(content["codec"].get("domains", {}).get("names", ())),
        phonemes=content["codec"].get("speech", {}).get("phonemes"),
    )


def predictor_folder(folder: Path) -> Path:
    """The Predictor folder of a package, or the folder itself if it is one. Raises PackageError."""
    if (folder / "model.json").is_file():
        return folder
    if (artifact := _artifact(folder, ARTIFACT)) is not None:
        return artifact
    if adapter_file(folder) is not None:
        raise PackageError(f"{folder} holds a user's adapter and no model; name its base model")
    raise PackageError(f"{folder} is no model: it holds neither model.json nor MLmodel")


def adapter_file(folder: Path) -> Path | None:
    """The user's adapter in a package, if any."""
    return _artifact(folder, ADAPTER)


def _artifact(folder: Path, name: str) -> Path | None:
    if not (folder / "MLmodel").is_file():
        return None
    from mlflow.models import Model

    artifacts = Model.load(str(folder)).flavors.get("python_function", {}).get("artifacts", {})
    return folder / artifacts[name]["path"] if name in artifacts else None
