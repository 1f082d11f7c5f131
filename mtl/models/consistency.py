"""Consistency loss: the model's own emotion and speaker classifiers on the log-mels that it synthesises.

    consistency_loss(model, mels, lengths, batch)      # (B, T, F), (B,) -> (B,): to be added to the loss of the mels

The weights are frozen while they classify, so that the gradient reaches only the log-mels. After the speaker and
emotion consistency of Cai et al. 2021, with one model in place of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from mtl.heads.classification import Classification
from mtl.inputs.batch import IGNORE, Batch
from mtl.spec import AUDIO
from mtl.spec import task as task_spec

if TYPE_CHECKING:
    from mtl.models.joint import SpeechModel


@contextmanager
def frozen_weights(model: SpeechModel) -> Iterator[None]:
    """Freezes the model's weights within the block; gradients still flow to its inputs."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.frozen = True
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.frozen = False
        for parameter in trained:
            parameter.requires_grad_(True)


def consistency_loss(model: SpeechModel, mels: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """(B,) mean cross entropy over the tasks that log-mels convey and the model has; 0 for tasks without a label.

    mels (B, T, F), lengths (B,): synthesised for the rows of the batch.
    """
    specs = [spec for spec in map(task_spec, model.config.tasks) if spec.makes_frames]
    tasks = [name for spec in specs for name in spec.conveys if name in model.config.tasks]
    synthesised = batch.with_inputs(AUDIO, features=mels, lengths=lengths)
    total = mels.new_zeros(len(mels))
    with frozen_weights(model):
        for name, states in model.encode(synthesised, tasks).items():
            logits = cast(Classification, model.task(name)).logits(states).float()
            labels = batch.targets[name].values
            total = total + nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return total / max(1, len(tasks))
