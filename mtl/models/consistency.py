"""What a model itself hears in the speech that it makes: led by that, its emotion and its speaker come out clearer.

    misheard(model, mels, lengths, batch)      # (B, T, F), (B,) -> (B,): to be added to the loss of the mels

The heads are those that learn from recordings, and here they are only asked: their weights, the trunk's and the
front-end's are held while they listen, so that what follows from it is the mels' alone. (As the speaker and emotion
consistency of Cai et al. 2021 and of others, with one model in place of two.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from mtl.heads.classification import Classification
from mtl.inputs.batch import IGNORE, Batch
from mtl.spec import AUDIO

if TYPE_CHECKING:
    from mtl.models.joint import SpeechModel

HEARD = ("emotion", "speaker")


@contextmanager
def held(model: SpeechModel) -> Iterator[None]:
    """Within the block a model's weights take part in no gradient; what goes through it does."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.listening = True
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.listening = False
        for parameter in trained:
            parameter.requires_grad_(True)


def consistency_loss(model: SpeechModel, mels: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """(B,): the mean over the tasks of HEARD that the model has of the cross entropy of its answer to log-mels.

    mels (B, T, F), lengths (B,): said of the batch's rows. A task that a row is not labelled for counts nothing there.
    """
    tasks = [name for name in HEARD if name in model.config.tasks]
    heard = batch.with_inputs(AUDIO, features=mels, lengths=lengths)
    total = mels.new_zeros(len(mels))
    with held(model):
        for name, states in model.encode(heard, tasks).items():
            logits = cast(Classification, model.task(name)).logits(states).float()
            total = total + nn.functional.cross_entropy(
                logits, batch.targets[name].values, ignore_index=IGNORE, reduction="none"
            )
    return total / max(1, len(tasks))
