"""The sharing modes and their settings. To add a mode, register its trunk (mtl/sharing) with its settings.

    MODES.register("star", "my_package.star:StarTrunk", StarSettings)     # StarSettings: a subclass of ModeSettings

A module named in MOTET_PLUGINS may do so too: see mtl/spec.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from mtl.config.setting import Choices, TaskName, setting


@dataclass(frozen=True)
class ModeSettings:
    """Base of the settings of a sharing mode."""

    @property
    def fewest_blocks(self) -> int:
        """Encoder blocks (model.blocks) that the mode needs."""
        return 1

    def check_tasks(self, tasks: Collection[str]) -> None:
        """Raises ValueError where a setting names a task that the recipe lacks."""

    def check_blocks(self, blocks: int) -> None:
        """Raises ValueError where an encoder of that many blocks is too small for the settings."""


@dataclass(frozen=True)
class HardSettings(ModeSettings):
    @property
    def fewest_blocks(self) -> int:
        return 0


@dataclass(frozen=True)
class SoftSettings(ModeSettings):
    strength: float = setting(1e-3, "Weight of the distance between the tasks' encoders in the loss.", ge=0)
    distance: Literal["l2", "l1", "cosine"] = setting(
        "l2", "Distance between two encoders: sum of squared or of absolute differences, or 1 - cosine similarity."
    )


@dataclass(frozen=True)
class ExpertSettings(ModeSettings):
    """expert_blocks of MMoE and PLE."""

    expert_blocks: int = setting(1, "Last blocks of the encoder that are experts; those before are shared.", ge=1)

    @property
    def fewest_blocks(self) -> int:
        return self.expert_blocks

    def check_blocks(self, blocks: int) -> None:
        if self.expert_blocks > blocks:
            raise ValueError(
                f"sharing.expert_blocks is {self.expert_blocks}, but the model has {blocks} blocks; lower it, or raise "
                "model.blocks"
            )


@dataclass(frozen=True)
class MMoESettings(ExpertSettings):
    experts: int = setting(4, "Number of experts.", ge=1)


@dataclass(frozen=True)
class PLESettings(ExpertSettings):
    shared_experts: int = setting(1, "Shared experts of each level, beside one expert for each task.", ge=1)


@dataclass(frozen=True)
class AttentionSettings(ModeSettings):
    bottleneck: int = setting(32, "Hidden units of the network that computes an attention mask.", ge=1)


@dataclass(frozen=True)
class GraphSettings(ModeSettings):
    graph: tuple[tuple[TaskName, TaskName], ...] | None = setting(
        None, "Pairs of tasks that exchange messages; null: intent with slots, and slots with domain."
    )

    def __post_init__(self) -> None:
        for one, other in self.graph or ():
            if one == other:
                raise ValueError(f"the pair [{one}, {other}] joins a task with itself, expected two different tasks")

    def check_tasks(self, tasks: Collection[str]) -> None:
        for pair in self.graph or ():
            if missing := set(pair) - set(tasks):
                raise ValueError(
                    f"sharing.graph names {', '.join(sorted(missing))}; the recipe's tasks are {sorted(tasks)}"
                )


@dataclass(frozen=True)
class AdapterSettings(ModeSettings):
    bottleneck: int = setting(32, "Hidden units of an adapter.", ge=1)


MODES = Choices(
    __name__, "MODES", title="Sharing", key="mode", default="hard", description="How the tasks share the encoder."
)
MODES.register("hard", "mtl.sharing.hard:HardTrunk", HardSettings)
MODES.register("soft", "mtl.sharing.soft:SoftTrunk", SoftSettings)
MODES.register("cross_stitch", "mtl.sharing.cross_stitch:CrossStitchTrunk", ModeSettings)
MODES.register("mmoe", "mtl.sharing.experts:MMoETrunk", MMoESettings)
MODES.register("ple", "mtl.sharing.experts:PLETrunk", PLESettings)
MODES.register("attention", "mtl.sharing.attention:AttentionTrunk", AttentionSettings)
MODES.register("graph", "mtl.sharing.graph:GraphTrunk", GraphSettings)
MODES.register("adapter", "mtl.sharing.adapter:AdapterTrunk", AdapterSettings)
