"""Curriculum: stages that train some of the tasks or only the heads, then all tasks together (Bengio et al. 2009).

    curriculum = Curriculum([Stage("recogniser", ("transcript",), epochs=2)], tasks, epochs=10)
    curriculum.at(epoch=3).tasks                # all tasks: the last stage is always joint

The epoch determines the stage, so a resumed run continues in the same stage. A task that is not in a stage is treated
as if no row were labelled for it: its parameters do not change, not even by weight decay.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtl.config.training import Stage

JOINT = "joint"  # the name of the last stage


class Curriculum:
    """The stages, followed by a joint stage for the remaining epochs.

    Raises:
        ValueError: no epoch remains; a stage has no epoch, no task or an unknown one; two stages have the same name.
    """

    def __init__(self, stages: Sequence[Stage], tasks: Sequence[str], epochs: int) -> None:
        for stage in stages:
            if unknown := sorted(set(stage.tasks) - set(tasks)):
                raise ValueError(f"stage {stage.name!r} names {', '.join(unknown)}; the tasks are {', '.join(tasks)}")
            if stage.epochs < 1 or not stage.tasks:
                raise ValueError(f"stage {stage.name!r} has {stage.epochs} epochs and {len(stage.tasks)} tasks")
        names = [*(stage.name for stage in stages), JOINT]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two stages are named {', '.join(twice)}; the last one is always named {JOINT}")
        before = sum(stage.epochs for stage in stages)
        if before >= epochs:
            raise ValueError(f"the stages take {before} epochs of {epochs}; at least one must be left for all tasks")
        self.stages = (*stages, Stage(JOINT, tuple(tasks), epochs - before))

    def number(self, epoch: int) -> int:
        """Index of the stage of an epoch, counted from 0."""
        for number, stage in enumerate(self.stages):
            epoch -= stage.epochs
            if epoch < 0:
                return number
        return len(self.stages) - 1

    def at(self, epoch: int) -> Stage:
        return self.stages[self.number(epoch)]
