"""The recipe: its sections, checks across sections, and its address."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

import yaml
from pydantic import Field, field_validator, model_validator

from mtl.config.balancing import METHODS
from mtl.config.features import FeatureSpec
from mtl.config.model import Model, Synthesis, Understanding, Vocoder
from mtl.config.sharing import MODES
from mtl.spec import SOUND, first_with_answer, makes_frames, reading_phones, speaks, with_context
from mtl.spec import task as task_spec
from mtl.training.curriculum import Curriculum
from pipelines.recipe.address import Operational, stated
from pipelines.recipe.base import Balancing, Section, Sharing, TaskName
from pipelines.recipe.data import Corpus, Loader, Quality, Text
from pipelines.recipe.model import Decoding, Domains, Task, Translation
from pipelines.recipe.training import Gates, Interpret, Judges, Search, Trainer

JUDGED_BY = {  # metric of synthesised speech: task of the judge
    f"{task}/{figure}": judge
    for task in ("mel", "waveform")
    for figure, judge in {
        "wer": "transcript",
        "added_wer": "transcript",
        "emotion": "emotion",
        "speaker": "speaker",
    }.items()
}


class Recipe(Section):
    """What to train, on which data, and when a new model is promoted."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the recipe and of its registered model.")
    summary: Annotated[str, Operational] = Field("", description="One sentence, shown in lists of recipes.")
    seed: int = Field(0, description="Seed of initialisation, sampling and dropout.")
    corpora: tuple[Corpus, ...] = Field(min_length=1, description="Where the data come from.")
    fold: tuple[int, int] | None = Field(
        None,
        description="Cross-validation by speakers: [fold, number of folds]. Speakers of the fold, counted from 0, are "
        "the valid split and all others train, whatever the corpora's own splits; see `motet study --folds`.",
    )
    quality: Quality = Field(Quality(), description="Limits beyond which recordings are quarantined.")
    features: FeatureSpec = Field(FeatureSpec(), description="Log-mel features.")
    text: Text = Field(Text(), description="Units of transcripts, and the context of dialogue tasks.")
    loader: Loader = Field(Loader(), description="Batches, sampling of corpora and augmentation.")
    model: Model = Field(Model(), description="Front-ends and encoder.")
    sharing: Sharing = Field(default_factory=MODES.select)
    tasks: dict[TaskName, Task] = Field(min_length=1, description="Tasks to train, by name.")
    balancing: Balancing = Field(default_factory=METHODS.select)
    understanding: Understanding = Field(Understanding(), description="Training on recognised words.")
    domains: Domains = Field(Domains(), description="Domains of recordings, and conditioning on them.")
    decoding: Decoding = Field(Decoding(), description="Beam search and language model of the packaged model.")
    translation: Translation = Field(Translation(), description="Decoder of the task translation.")
    synthesis: Synthesis = Field(Synthesis(), description="Additional losses of the task mel.")
    vocoder: Vocoder = Field(Vocoder(), description="Vocoder of the task waveform.")
    trainer: Trainer = Field(Trainer(), description="Length, optimiser and devices of the training.")
    interpret: Annotated[Interpret, Operational] = Field(
        Interpret(), description="Measurements for the report that no result depends on."
    )
    judges: Annotated[Judges, Operational] = Field(
        Judges(), description="Registered models that evaluate synthesised speech."
    )
    search: Annotated[Search, Operational] = Field(Search(), description="Hyperparameter search, `motet search`.")
    gates: Annotated[Gates, Operational] = Field(Gates(), description="Conditions of a promotion.")

    @field_validator("corpora")
    @classmethod
    def _names_differ(cls, corpora: tuple[Corpus, ...]) -> tuple[Corpus, ...]:
        names = [corpus.name for corpus in corpora]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two corpora are named {', '.join(twice)}; names must differ")
        return corpora

    @model_validator(mode="after")
    def _check_references(self) -> Recipe:
        names = {corpus.name for corpus in self.corpora}
        for task, config in self.tasks.items():
            for corpus in config.corpora or ():
                if corpus not in names:
                    raise ValueError(f"tasks.{task}.corpora names {corpus!r}; the recipe's corpora are {sorted(names)}")
            if config.reversal and (task_spec(task).answer != "label" or task_spec(task).context):
                raise ValueError(f"tasks.{task}.reversal is for tasks with one label an utterance, without a context")
        for mode in MODES:
            self.sharing.settings_of(mode).check_tasks(self.tasks)
        if missing := set(self.search.reference) - set(self.tasks):
            raise ValueError(
                f"search.reference names {', '.join(sorted(missing))}; the recipe's tasks are {sorted(self.tasks)}"
            )
        self._check_curriculum()
        self._check_speech()
        self._check_domains()
        if (self.understanding.recognised or self.understanding.read) and first_with_answer(self.tasks, "text") is None:
            raise ValueError("understanding trains on what the recogniser hears; add tasks.transcript, or leave it out")
        if first_with_answer(self.tasks, "translation") and self.model.width % (2 * self.translation.heads):
            raise ValueError(
                f"model.width {self.model.width} is not a multiple of 2 x translation.heads {self.translation.heads}"
            )
        modes = {self.sharing.mode, *self.search.modes}
        if not self.model.blocks:
            self._check_no_blocks(modes)
        for mode in modes:
            self.sharing.settings_of(mode).check_blocks(self.model.blocks)
        for metric in (self.gates.primary, *self.gates.tolerance, *self.gates.minimum):
            if metric.split("/")[0] not in self.tasks:
                raise ValueError(f"gates name the metric {metric!r}, but its task is not among {sorted(self.tasks)}")
            if JUDGED_BY.get(metric, "") not in ("", *self.judges.models):
                raise ValueError(f"gates name the metric {metric!r}; set judges.{JUDGED_BY[metric]}, or leave it out")
        return self

    def _check_domains(self) -> None:
        """Raises ValueError if `domains`, or a gate of a domain, is not valid."""
        if "@" in self.gates.primary:
            raise ValueError(f"gates.primary is {self.gates.primary!r}; expected a metric of all domains together")
        if not self.domains.on:
            return
        if self.domains.by == "corpus" and len(self.corpora) < 2:
            raise ValueError(
                "domains.by is corpus and the recipe has one corpus, so all recordings have the same domain; "
                "set domains.by=domain, or add a corpus"
            )
        if self.domains.by in [task_spec(task).label for task in self.tasks]:
            raise ValueError(
                "domains.by is domain, which is also a task: the model would be told the answer; "
                "remove tasks.domain, or set domains.by=corpus"
            )

    @property
    def speaks(self) -> bool:
        return speaks(self.tasks)

    @property
    def phrased(self) -> bool:
        """Whether some task reads phones and their prosody."""
        return bool(set(reading_phones()) & set(self.tasks))

    @property
    def sounds(self) -> bool:
        """Whether some task reads the waveforms of recordings."""
        return any(SOUND in task_spec(task).groups for task in self.tasks)

    def _check_speech(self) -> None:
        """Raises ValueError for tasks of synthesis without phones of one kind, or with augmented recordings."""
        if self.judges.models and not (self.speaks or self.sounds):
            raise ValueError(
                "judges names models, but nothing makes sound; add tasks.prosody and tasks.mel, or tasks.waveform"
            )
        changed = self.loader.speed != (1.0, 1.0) or self.loader.time_masks or self.loader.freq_masks
        if self.sounds and changed:
            raise ValueError(
                "tasks.waveform learns the recordings' own sound; leave out loader.speed, loader.time_masks and "
                "loader.freq_masks"
            )
        if self.synthesis != Synthesis() and not makes_frames(self.tasks):
            raise ValueError("synthesis is about the task mel; add tasks.mel, or leave it out")
        conveyed = {name for task in self.tasks for name in task_spec(task).conveys}
        if self.synthesis.consistency and not conveyed & set(self.tasks):
            raise ValueError("synthesis.consistency needs the task emotion or speaker; add one, or leave it out")
        if not self.phrased:
            return
        (needing, *_) = sorted(set(reading_phones()) & set(self.tasks))
        kinds = sorted({corpus.phonemes for corpus in self.corpora if corpus.phonemes})
        if len(kinds) != 1:
            reason = f"corpora name {' and '.join(kinds)}" if kinds else "no corpus names any"
            raise ValueError(f"tasks.{needing} needs phones of one kind, but {reason}; set corpora.<name>.phonemes")
        if self.loader.speed != (1.0, 1.0):
            raise ValueError(f"tasks.{needing} learns how long phones are; leave out loader.speed")
        if makes_frames(self.tasks) and (self.loader.time_masks or self.loader.freq_masks):
            raise ValueError("tasks.mel learns the recordings' own sound; leave out loader.time_masks and freq_masks")

    def _check_no_blocks(self, modes: set[str]) -> None:
        """Raises ValueError if model.blocks is 0 and a task or a sharing mode needs blocks."""
        if not self.model.lstm and any(SOUND not in task_spec(task).groups for task in self.tasks):
            raise ValueError(
                "model.blocks and model.lstm are both 0, so nothing would encode the text; raise one of them"
            )
        specs = [task_spec(task) for task in self.tasks]
        if readers := sorted(spec.name for spec in specs if spec.from_recordings and SOUND not in spec.groups):
            raise ValueError(
                f"model.blocks is 0, but the tasks {', '.join(readers)} hear recordings, which only blocks encode"
            )
        if others := sorted(mode for mode in modes if self.sharing.settings_of(mode).fewest_blocks):
            raise ValueError(
                f"model.blocks is 0, and there is nothing that {', '.join(others)} could share; raise it, or set "
                "sharing.mode: hard and search.modes: [hard]"
            )

    def _check_curriculum(self) -> None:
        """Raises ValueError if trainer.curriculum is not valid."""
        try:
            Curriculum(self.trainer.curriculum, tuple(self.tasks), self.trainer.epochs)
        except ValueError as error:
            raise ValueError(f"trainer.curriculum: {error} (trainer.epochs)") from None

    def address(self) -> str:
        """Hash of everything that can change a result: all but operational settings and unused sections (address.py).

        Raises:
            RecipeError: a source names a variable that is not set.
        """
        content = stated(self)
        # Of these sections all settings enter, or none if nothing reads the section.
        used = {
            "translation": first_with_answer(self.tasks, "translation") is not None,
            "vocoder": self.sounds,
            "domains": self.domains.on,
        }
        for name, is_used in used.items():
            content.pop(name, None)
            if is_used:
                content[name] = stated(getattr(self, name))
        content["text"].pop("context", None)
        if with_context(self.tasks):
            content["text"]["context"] = self.text.context
        for corpus, config in zip(content["corpora"], self.corpora, strict=True):
            corpus["source"] = config.location()  # expanded, as in earlier versions
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
