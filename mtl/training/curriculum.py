"""What trains when: stages of some tasks or of the heads alone, and after them everything at once (Bengio et al. 2009).

    curriculum = Curriculum([Stage("recogniser", ("transcript",), epochs=2)], tasks, epochs=10)
    curriculum.at(epoch=3).tasks                # all of them: the last stage is always joint

A stage follows from the number of the epoch, so a run that goes on in mid-epoch is in the stage that it left. A task
that a stage leaves out is as if no row were labelled for it: its parameters rest, without weight decay too.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtl.config.training import Stage

JOINT = "joint"  # the name of the last stage


class Curriculum:
    """The given stages, and a joint one for what is left of the epochs.

    Raises:
        ValueError: no epoch is left, a stage has none or no task, names a task that is not there, or two have one name.
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
            raise ValueError(
                f"the stages take {before} epochs of {epochs}; at least one must be left for all tasks together"
            )
        self.stages = (*stages, Stage(JOINT, tuple(tasks), epochs - before))

    def number(self, epoch: int) -> int:
        """Which stage an epoch, counted from 0, belongs to."""
        for number, stage in enumerate(self.stages):
            epoch -= stage.epochs
            if epoch < 0:
                return number
        return len(self.stages) - 1

    def at(self, epoch: int) -> Stage:
        return self.stages[self.number(epoch)]
