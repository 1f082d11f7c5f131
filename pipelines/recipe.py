"""A recipe says what to train: corpora, features, tasks, sharing, balancing, budget, search space and gates.

    recipe = load("assistant", overrides=["trainer.epochs=3", "tasks.intent.weight=0.5"])

A recipe is YAML, checked by pydantic; a shipped name or a path. An unknown or mistyped key names the
nearest valid one. `Recipe.address()` is the hash under which its results are stored.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mtl import curriculum
from pipelines.roots import sha256

SHIPPED = Path(__file__).parent / "recipes"
CORPUS_KINDS = ("espeak", "librispeech", "commonvoice", "voxceleb", "atis", "sgd", "covost", "manifest")
SHARING_MODES = ("hard", "soft", "cross_stitch", "mmoe", "ple", "attention", "graph", "adapter")
BALANCING = (
    *("static", "random", "uncertainty", "imtl_l", "dwa", "geometric_mean", "stch", "famo"),  # of losses
    *("gradnorm", "mgda", "pcgrad", "gradvac", "cagrad", "imtl_g"),  # of gradients, and the next line
    *("nash_mtl", "aligned_mtl", "upgrad", "fairgrad"),
)
DIALOGUE = ("dialogue_act", "system_action")  # as mtl.text has it, whose torch a command line can do without
TASK_KINDS = ("transcript", "intent", "slots", "domain", "speaker", "emotion", "language", "translation", *DIALOGUE)


class RecipeError(ValueError):
    """A recipe that cannot be read; the message says which key, what was expected and what is nearest."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Fractions(Section):
    """Shares of speakers (or sentences) that go to each split where a corpus has no splits of its own."""

    train: float = Field(0.8, ge=0, le=1)
    valid: float = Field(0.1, ge=0, le=1)
    test: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> Fractions:
        if abs(self.train + self.valid + self.test - 1) > 1e-6:
            raise ValueError(f"train + valid + test is {self.train + self.valid + self.test:g}, expected 1")
        return self


class Corpus(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="name in tables and metrics")
    kind: Literal[CORPUS_KINDS]  # type: ignore[valid-type]
    source: str | None = Field(None, description="folder, archive, http(s) URL, s3:// prefix; none for espeak")
    checksum: str | None = Field(None, description="sha256 of an archive or download, hex")
    split_by: Literal["release", "speaker", "sentence"] = Field(
        "release", description="the release's own splits where it has them, else (or instead) by speaker or sentence"
    )
    fractions: Fractions = Fractions()
    language: str | None = Field(None, description="BCP 47 tag for rows that carry none")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of this corpus kind")


class Quality(Section):
    """What is let in. Each rejected recording becomes a row of the quarantine table."""

    min_seconds: float = Field(0.2, gt=0)
    max_seconds: float = Field(35.0, gt=0)
    max_quarantined: float = Field(0.05, ge=0, le=1, description="share of a corpus above which its ingest fails")


class Features(Section):
    sample_rate: int = Field(16000, ge=4000, description="Hz")
    bins: int = Field(80, ge=8, le=256)
    window_ms: float = Field(25.0, gt=0)
    hop_ms: float = Field(10.0, gt=0)
    low_hz: float = Field(20.0, ge=0)
    high_hz: float = Field(7600.0, gt=0)

    @model_validator(mode="after")
    def _below_nyquist(self) -> Features:
        if not self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(f"low_hz < high_hz <= sample_rate / 2 does not hold: {self.low_hz}, {self.high_hz}")
        return self


class Text(Section):
    units: Literal["characters", "sentencepiece"] = "characters"
    pieces: int = Field(256, ge=32, description="size of the SentencePiece model")
    context: int = Field(
        64, ge=0, description="words of the turns before that dialogue tasks read, the latest; 0: none"
    )


class Loader(Section):
    batch_seconds: float = Field(60.0, gt=0, description="audio in a micro-batch, padding counted")
    batch_tokens: int = Field(600, gt=0, description="words in a text micro-batch, padding counted")
    temperature: float = Field(1.0, ge=1, description="1: corpora in proportion to size; higher: more even")
    speed: tuple[float, float] = Field((1.0, 1.0), description="range of speed perturbation")
    time_masks: int = Field(0, ge=0, description="SpecAugment")
    time_mask_fraction: float = Field(0.05, ge=0, le=1, description="longest time mask, as a share of the utterance")
    freq_masks: int = Field(0, ge=0, description="SpecAugment")
    freq_mask_bins: int = Field(20, ge=0)


class Model(Section):
    width: int = Field(144, ge=8)
    blocks: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    kernel: int = Field(15, ge=1, description="frames of the convolution in each block, odd")
    expansion: int = Field(4, ge=1, description="feed-forward width over model width")
    hidden: int | None = Field(
        None, ge=1, description="units of the feed-forward layers, in place of expansion x width"
    )
    subsampling: Literal[2, 3, 4, 6, 8] = 4
    dropout: float = Field(0.1, ge=0, lt=1)
    word_dropout: float = Field(0.05, ge=0, lt=1, description="share of words read as unknown in training")

    @model_validator(mode="after")
    def _fits(self) -> Model:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x heads {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even, expected odd")
        return self


class Sharing(Section):
    mode: Literal[SHARING_MODES] = "hard"  # type: ignore[valid-type]
    strength: float = Field(1e-3, ge=0, description="lambda of the soft penalty")
    distance: Literal["l2", "l1", "cosine"] = "l2"
    experts: int = Field(4, ge=1, description="of mmoe")
    shared_experts: int = Field(1, ge=1, description="of ple, beside one for each task")
    expert_blocks: int = Field(1, ge=1, description="the model's last blocks, which are experts in mmoe and ple")
    bottleneck: int = Field(32, ge=1, description="units of an adapter (adapter) or of what makes a mask (attention)")
    graph: tuple[tuple[Literal[TASK_KINDS], Literal[TASK_KINDS]], ...] | None = Field(  # type: ignore[valid-type]
        None, description="pairs of tasks that exchange messages; intent-slots and slots-domain if left out"
    )

    @field_validator("graph")
    @classmethod
    def _edges_join_two_tasks(cls, graph: tuple[tuple[str, str], ...] | None) -> tuple[tuple[str, str], ...] | None:
        for one, other in graph or ():
            if one == other:
                raise ValueError(f"the pair [{one}, {other}] joins a task with itself, expected two different tasks")
        return graph


class Task(Section):
    weight: float = Field(1.0, gt=0)
    corpora: tuple[str, ...] | None = Field(None, description="corpora whose labels train this task; all if left out")
    labels: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of its training labels that are kept, by hash; a larger share holds a smaller",
    )


class Balancing(Section):
    """How tasks' losses or gradients become one step; see mtl.balance. Each number is read by the methods it names."""

    method: Literal[BALANCING] = "static"  # type: ignore[valid-type]
    temperature: float = Field(2.0, gt=0, description="dwa: higher is more even")
    smoothing: float = Field(0.1, gt=0, description="stch: lower is nearer to the worst loss alone")
    radius: float = Field(0.5, ge=0, lt=1, description="cagrad: how far from the mean gradient, a share of its length")
    fairness: float = Field(2.0, ge=0.1, description="fairgrad: 1 is proportional, higher nearer to max-min")
    asymmetry: float = Field(1.5, ge=0, description="gradnorm: how hard slow tasks are pulled along")
    rate: float = Field(0.025, gt=0, description="famo, gradnorm: learning rate of their own weights")


class Decoding(Section):
    """How the shipped model writes down what it hears; validation during training takes the best path."""

    beam: int = Field(16, ge=1, description="texts kept in the search; 1: the best path, without a language model")
    order: int = Field(3, ge=1, le=5, description="of the word n-gram model, made from the training transcripts")
    weight: float = Field(0.5, ge=0, description="of the language model beside the recogniser")
    bonus: float = Field(1.0, description="for each word")
    unknown: float = Field(-6.0, le=0, description="for a word that training never saw")
    spelling: float = Field(-1.0, le=0, description="for each letter of such a word")
    arpa: str | None = Field(
        None, description="file of a word n-gram model (ARPA, gzipped or not) instead of one from the transcripts"
    )
    arpa_checksum: str | None = Field(None, description="sha256 of that file, hex; filled in when a recipe is loaded")
    reread: bool = Field(
        False, description="intent and the like from the recognised words too; needs sentences of text in training"
    )


class Understanding(Section):
    """On which words the heads that read words are trained; see mtl.recognised."""

    recognised: float = Field(
        0.0, ge=0, le=1, description="share of recordings trained on the words that the recogniser hears; 0: true words"
    )
    error_limit: float = Field(
        0.5, gt=0, lt=1, description="word errors per true word beyond which a recording keeps its true words"
    )
    read: bool = Field(False, description="the text front-end is trained on the recordings' words too")


class Stage(Section):
    """Some epochs of training before all tasks train together; see mtl.curriculum."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    tasks: tuple[Literal[TASK_KINDS], ...] = Field(min_length=1)  # type: ignore[valid-type]
    epochs: int = Field(ge=1)
    train: Literal["all", "heads"] = Field("all", description="heads: what tasks share rests")


class Domains(Section):
    """Conditions that recordings come from, and what the model is told of them; see mtl.domains.

    Figures by domain and the probe of their channels are there whatever it is told.
    """

    by: Literal["corpus", "domain"] = Field("corpus", description="a recording's domain: its corpus, or its label")
    conditioning: bool = Field(False, description="an embedding of the domain scales and shifts the trunk's input")
    adapters: bool = Field(False, description="each domain has small layers of its own before and behind the trunk")
    bottleneck: int = Field(32, ge=1, description="units of such a layer")
    rank: int = Field(8, ge=1, description="size of the embedding")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="share of training recordings whose domain is withheld: trains the unknown domain"
    )

    @property
    def on(self) -> bool:
        return self.conditioning or self.adapters


class Translation(Section):
    """The decoder of the task `translation`; the shipped model searches, validation takes the likeliest unit."""

    units: Literal["sentencepiece", "characters"] = "sentencepiece"
    pieces: int = Field(500, ge=32, description="size of the SentencePiece model, made from the training translations")
    blocks: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    expansion: int = Field(4, ge=1, description="feed-forward width over model width")
    dropout: float = Field(0.1, ge=0, lt=1)
    smoothing: float = Field(0.1, ge=0, lt=1, description="of labels: share of a unit's probability spread over all")
    beam: int = Field(4, ge=1, le=100, description="hypotheses kept in the search; 1: greedy")
    length_penalty: float = Field(0.6, ge=0, description="alpha of Wu et al. 2016; 0 prefers short translations")
    longest: int = Field(128, ge=1, le=4096, description="units of a translation, at most")


class Trainer(Section):
    epochs: int = Field(20, ge=1)
    curriculum: tuple[Stage, ...] = Field((), description="stages before the joint one, which takes the other epochs")
    restart: bool = Field(False, description="the learning rate's schedule begins anew in each stage")
    learning_rate: float = Field(1e-3, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    weight_decay: float = Field(1e-2, ge=0)
    clip_norm: float = Field(5.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device is made for it")
    micro_batches: int = Field(1, ge=1, description="micro-batches a step, dealt over workers and accumulation")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0 switches it off")
    workers: int = Field(1, ge=1)
    gpus: bool | None = Field(None, description="one GPU a worker; none: when the cluster has them")
    checkpoint_minutes: float = Field(2.0, gt=0, description="besides one after every epoch")
    max_failures: int = Field(3, ge=0, description="how often a worker group is restarted from its checkpoint")


class Interpret(Section):
    """What is looked at beside the scores, for the report's "What the tasks share". No result depends on it."""

    gradients: int = Field(
        50,
        ge=0,
        description="steps between two looks at the tasks' gradients, each of about three steps' time; 0: none",
    )
    probes: bool = Field(True, description="read speaker, emotion and phones from every layer of the new model")
    rows: int = Field(400, ge=10, le=10_000, description="recordings of the valid split, and as many sentences")


class Search(Section):
    """`motet search`: trials on one device each, compared by `objective`, drawn as a front over the tasks."""

    method: Literal["asha", "pbt"] = Field(
        "asha",
        description="asha: independent points, the poor ones stopped early. pbt: a population of `trials` models whose "
        "poor ones go on with the weights of good ones, at a learning rate and task weights nearby; finds a schedule, "
        "keeps the recipe's sharing mode",
    )
    objective: Literal["gain", "mean"] = Field(
        "gain",
        description="what stops and ranks trials. gain: mean over tasks of the change relative to the single-task "
        "model of a trial's budget, in percent; asks of every task what it reaches alone, and trains these models "
        "first (once: they are kept). mean: mean error in percent; needs no such models, and the task with the most "
        "errors decides",
    )
    proposals: Literal["tasks", "objective"] = Field(
        "tasks",
        description="asha: what Optuna's TPE looks at. tasks: every task's error at once, which spreads trials along "
        "the front; objective: the objective alone. Either way the objective decides who is stopped",
    )
    trials: int = Field(16, ge=1)
    epochs: int = Field(4, ge=1, description="budget of a trial that ASHA lets run to its end")
    interval: int = Field(1, ge=1, description="pbt: epochs between two exchanges")
    share: float = Field(1.0, gt=0, le=1, description="of the training rows, the same for every trial")
    reduction: int = Field(3, ge=2, description="ASHA's reduction factor")
    learning_rate: tuple[float, float] = (3e-4, 3e-3)
    task_weight: tuple[float, float] = (0.1, 10.0)
    modes: tuple[Literal[SHARING_MODES], ...] = Field(("hard", "soft"), min_length=1)  # type: ignore[valid-type]
    strength: tuple[float, float] = (1e-5, 1e-1)
    reference: dict[Literal[TASK_KINDS], Annotated[float, Field(ge=0, le=100)]] = Field(  # type: ignore[valid-type]
        default_factory=dict,
        description="the hypervolume's reference point: a figure of each task's own metric in percent, which a trial "
        "must beat to count; every answer wrong (WER 100, accuracy 0) if left out",
    )

    @model_validator(mode="after")
    def _exchanges(self) -> Search:
        if self.method == "pbt" and self.interval >= self.epochs:
            raise ValueError(
                f"interval {self.interval} is not below epochs {self.epochs}: nothing would ever be exchanged; raise "
                "epochs, or take method: asha"
            )
        return self


class Gates(Section):
    primary: str = Field("transcript/wer", description="metric that must improve, '<task>/<metric>'")
    tolerance: dict[str, float] = Field(
        default_factory=dict, description="how much worse each metric may be, in points of percent; 0.5 if left out"
    )
    minimum: dict[str, float] = Field(
        default_factory=dict, description="absolute limit of a metric in percent (a ceiling where lower is better)"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(1000, ge=100)


class Recipe(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    summary: str = ""
    seed: int = 0
    corpora: tuple[Corpus, ...] = Field(min_length=1)
    quality: Quality = Quality()
    features: Features = Features()
    text: Text = Text()
    loader: Loader = Loader()
    model: Model = Model()
    sharing: Sharing = Sharing()
    tasks: dict[Literal[TASK_KINDS], Task] = Field(min_length=1)  # type: ignore[valid-type]
    balancing: Balancing = Balancing()
    understanding: Understanding = Understanding()
    domains: Domains = Domains()
    decoding: Decoding = Decoding()
    translation: Translation = Translation()
    trainer: Trainer = Trainer()
    interpret: Interpret = Interpret()
    search: Search = Search()
    gates: Gates = Gates()

    @field_validator("corpora")
    @classmethod
    def _names_differ(cls, corpora: tuple[Corpus, ...]) -> tuple[Corpus, ...]:
        names = [corpus.name for corpus in corpora]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two corpora are named {', '.join(twice)}; names must differ")
        return corpora

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Recipe:
        names = {corpus.name for corpus in self.corpora}
        for task, config in self.tasks.items():
            for corpus in config.corpora or ():
                if corpus not in names:
                    raise ValueError(f"tasks.{task}.corpora names {corpus!r}; the recipe's corpora are {sorted(names)}")
        for pair in self.sharing.graph or ():
            if missing := set(pair) - set(self.tasks):
                raise ValueError(
                    f"sharing.graph names {', '.join(sorted(missing))}; the recipe's tasks are {sorted(self.tasks)}"
                )
        if missing := set(self.search.reference) - set(self.tasks):
            raise ValueError(
                f"search.reference names {', '.join(sorted(missing))}; the recipe's tasks are {sorted(self.tasks)}"
            )
        self._has_its_stages()
        self._has_its_domains()
        if (self.understanding.recognised or self.understanding.read) and "transcript" not in self.tasks:
            raise ValueError("understanding trains on what the recogniser hears; add tasks.transcript, or leave it out")
        if "translation" in self.tasks and self.model.width % (2 * self.translation.heads):
            raise ValueError(
                f"model.width {self.model.width} is not a multiple of 2 x translation.heads {self.translation.heads}"
            )
        modes = {self.sharing.mode, *self.search.modes}
        if modes & {"mmoe", "ple"} and self.sharing.expert_blocks > self.model.blocks:
            raise ValueError(
                f"sharing.expert_blocks is {self.sharing.expert_blocks}, but the model has {self.model.blocks} blocks; "
                "lower it, or raise model.blocks"
            )
        for metric in (self.gates.primary, *self.gates.tolerance, *self.gates.minimum):
            if metric.split("/")[0] not in self.tasks:
                raise ValueError(f"gates name the metric {metric!r}, but its task is not among {sorted(self.tasks)}")
        return self

    def _has_its_domains(self) -> None:
        """Raises ValueError where `domains`, or a gate of one, cannot be meant."""
        if "@" in self.gates.primary:
            raise ValueError(f"gates.primary is {self.gates.primary!r}; expected a metric of all domains together")
        if not self.domains.on:
            return
        if self.domains.by == "corpus" and len(self.corpora) < 2:
            raise ValueError(
                "domains.by is corpus and the recipe has one corpus, so there is nothing to tell the model; "
                "take domains.by=domain, or add a corpus"
            )
        if self.domains.by == "domain" and "domain" in self.tasks:
            raise ValueError(
                "domains.by is domain, and so is a task: the model would be told the answer; "
                "remove tasks.domain, or take domains.by=corpus"
            )

    def _has_its_stages(self) -> None:
        """Raises ValueError where trainer.curriculum cannot be followed."""
        stages = tuple(curriculum.Stage(**stage.model_dump()) for stage in self.trainer.curriculum)
        try:
            curriculum.Curriculum(stages, tuple(self.tasks), self.trainer.epochs)
        except ValueError as error:
            raise ValueError(f"trainer.curriculum: {error} (trainer.epochs)") from None

    def address(self) -> str:
        """Hash of everything in the recipe that can change a result: all but its summary, search space and gates, and
        what is looked at."""
        content = self.model_dump(mode="json", exclude={"summary", "search", "gates", "interpret"})
        for key in ("workers", "gpus", "checkpoint_minutes", "max_failures"):  # how it runs, not what comes out
            content["trainer"].pop(key)
        if not set(DIALOGUE) & set(self.tasks):
            content["text"].pop("context")  # which nothing reads
        if "translation" not in self.tasks:
            content.pop("translation")
        if not self.domains.on:  # then it says how figures are shown
            content.pop("domains")
        content["decoding"].pop("arpa")  # its checksum says what is in it, wherever it lies
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(name_or_path: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file; `overrides` are `a.b=value` with the value in YAML.

    Lists take an index or, for corpora, a name: `corpora.commands.options.hours=2`.

    Raises:
        RecipeError: no such recipe, not YAML, or a key or value that does not fit.
    """
    path = _find(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {type(content).__name__}, expected a mapping with name, corpora, tasks …")
    for override in overrides:
        _override(content, override)
    _expand_sources(content, path)
    _find_arpa(content, path)
    return parse(content, where=str(path))


def parse(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from a plain mapping. Raises RecipeError with one line per fault."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors()]
        raise RecipeError(f"{where} is not a valid recipe:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _expand_sources(content: dict[str, Any], path: Path) -> None:
    """`$NAME` and `~` in a corpus's source, so that a recipe need not name one machine's folders."""
    for corpus in content.get("corpora") or ():
        if not isinstance(corpus, dict) or not isinstance(corpus.get("source"), str):
            continue
        source = os.path.expanduser(os.path.expandvars(corpus["source"]))
        if "$" in source:
            raise RecipeError(
                f"{path}: the source of corpus {corpus.get('name')!r} is {source!r}, but that variable is not set; "
                f"export it, or give --set corpora.{corpus.get('name')}.source=FOLDER"
            )
        corpus["source"] = source


def _find_arpa(content: dict[str, Any], path: Path) -> None:
    """Expands `decoding.arpa` and fills in its checksum: another language model makes another recipe."""
    decoding = content.get("decoding")
    if not isinstance(decoding, dict) or not isinstance(decoding.get("arpa"), str):
        return
    arpa = Path(os.path.expanduser(os.path.expandvars(decoding["arpa"]))).resolve()
    if not arpa.is_file():
        raise RecipeError(f"{path}: decoding.arpa names {arpa}, which is no file; expected ARPA text, gzipped or not")
    decoding["arpa"] = str(arpa)
    decoding.setdefault("arpa_checksum", sha256(arpa))


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise RecipeError(f"no recipe file {path}")
    found = SHIPPED / f"{name_or_path}.yaml"
    if not found.is_file():
        near = difflib.get_close_matches(name_or_path, shipped(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"no recipe named {name_or_path!r}{hint} Shipped: {', '.join(shipped())}; or give a .yaml file."
        )
    return found


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override!r}: expected key=value, for example trainer.epochs=3")
    keys = path.strip().split(".")
    node: Any = content
    for depth, key in enumerate(keys[:-1]):
        node = _step_into(node, key, ".".join(keys[: depth + 1]))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: {value!r} is not a YAML value") from error
    if isinstance(parsed, str):
        # YAML 1.1 reads 1e-3 as a string; a person who types it means the number.
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    if isinstance(node, list):
        node[_position(node, keys[-1], path)] = parsed
    else:
        node[keys[-1]] = parsed


def _step_into(node: Any, key: str, where: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, key, where)]
    child = node.setdefault(key, {})
    if child is None:
        child = node[key] = {}
    if not isinstance(child, dict | list):
        raise RecipeError(f"--set {where}: holds {child!r}, which has no keys below it")
    return child


def _position(items: list[Any], key: str, where: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(items):
        return int(key)
    raise RecipeError(
        f"--set {where}: no item {key!r}; expected one of {[n for n in names if n]} or 0..{len(items) - 1}"
    )


def _explain(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "recipe"
    if fault["type"] == "extra_forbidden":
        *parents, key = fault["loc"]
        valid = _keys_at(parents)
        near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
        return f"{where}: unknown key; {hint}"
    if fault["type"] == "literal_error":
        near = difflib.get_close_matches(str(fault["input"]), _words(fault["ctx"]["expected"]), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: {fault['input']!r}, expected {fault['ctx']['expected']}{hint}"
    given = fault["input"] if isinstance(fault["input"], str | int | float | bool) else type(fault["input"]).__name__
    return f"{where}: {fault['msg']} (given {given!r})"


def _words(expected: str) -> list[str]:
    return [word.strip("' ,") for word in expected.replace(" or ", ", ").split(",")]


def _keys_at(path: list[Any]) -> list[str]:
    """Field names of the section that a path of keys leads to."""
    model: Any = Recipe
    for part in path:
        if isinstance(part, int) or model is Task:  # the number of a corpus, the name of a task
            continue
        annotation = model.model_fields[part].annotation
        model = {"corpora": Corpus, "tasks": Task, "curriculum": Stage}.get(str(part), annotation)
    return list(model.model_fields)
