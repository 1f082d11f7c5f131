"""Training on Ray Train: N workers run `mtl.training.fit`, checkpoints are in the store, the driver logs metrics.

    result = train(recipe, utterances, features, store, name="assistant-3f2a-1")
    result.model_key, result.metrics["valid/transcript/wer"], result.history

The name identifies the run. If a worker dies, its group restarts from the last checkpoint; if the driver dies, a call
with the same name resumes the run; if the run has finished, the call returns its result. Checkpoints are in
<root>/train/<name>/ until the run has finished; then its best weights are in <root>/models/. A damaged checkpoint is
deleted, and the run resumes from the last whole one (checkpoints.py).
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from mtl.inputs.codec import Codec
from mtl.metrics.scoring import in_unit
from mtl.training.curriculum import JOINT
from pipelines.core import cluster
from pipelines.core.progress import Report
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.registry.tracking import Run
from pipelines.storage import lock
from pipelines.storage.store import Manifest, Store
from pipelines.training.checkpoint_scores import order, unranked
from pipelines.training.checkpoints import SCORE, Row, resume_from, storage
from pipelines.training.prepare import Job, PrepareError, labelled, prepare
from pipelines.training.resources import Share, nodes, share_of
from pipelines.training.results import Incomplete, TrainResult, finished, keep
from pipelines.training.vocabulary import stored_codec
from pipelines.training.worker import FatalError, Unusable, loop

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

__all__ = ["TrainError", "TrainResult", "finished", "quiet_ray", "train"]

VERSION = 2
DAMAGE_ATTEMPTS = 3  # of a run that meets a damaged checkpoint
START_ATTEMPTS = 3  # of a worker group that does not fit into the cluster
POLL_SECONDS = 0.5

logger = logging.getLogger(__name__)


class TrainError(RuntimeError):
    """Training cannot start, or failed finally; the message says why and what to change."""


def train(
    recipe: Recipe,
    utterances: list[Manifest],
    features: list[Manifest],
    store: Store,
    name: str,
    on_report: Callable[[Row], None] | None = None,
    tracking: Run | None = None,
    progress: Report | None = None,
) -> TrainResult:
    """Trains the recipe on these versions of its data, or returns the result of the finished run of this name.

    on_report: called with each epoch's metrics, in this process. tracking: the MLflow run, written from this process
    alone. Ray must be connected, or is started here.

    Raises:
        TrainError: no label for a task, a language model that cannot be used, too few CPUs or GPUs, a loss that is
            not finite, or more failures than trainer.max_failures. Calling again with the same name resumes from the
            last checkpoint.
    """
    result = finished(store, name)
    if result is None:
        listeners = [on_report] if on_report else []
        listeners += [_writer(tracking)] if tracking else []
        listeners += [_bar(recipe, progress)] if progress else []
        job, share = _job(recipe, utterances, features, store, name)
        damaged = 0
        while result is None:
            try:
                _fit_on_cluster(job, name, share, listeners, resume_from(store, name))
                result = keep(job, Codec.from_json(job.codec), name)
            except (Unusable, Incomplete) as error:
                damaged += 1
                _count_damage(damaged, error, name, store)
        _store_result(store, name, result)
    if tracking:
        _catch_up(tracking, result.history)
    return result


def _job(
    recipe: Recipe, utterances: list[Manifest], features: list[Manifest], store: Store, name: str
) -> tuple[Job, Share]:
    """The job of the workers, and the share of the cluster of each."""

    def build() -> Codec:
        try:
            return prepare(recipe, labelled(open_dataset(store, utterances, features), recipe))[0]
        except PrepareError as error:
            raise TrainError(str(error)) from error

    codec, workers = stored_codec(store, f"train/{name}/codec.json", build), recipe.trainer.workers
    quiet_ray()
    try:
        cluster.connect(cpus=workers)
        share = share_of(nodes(), workers, recipe.trainer.gpus)
    except cluster.ClusterError as error:
        raise TrainError(str(error)) from error
    return Job(recipe, utterances, features, store, codec.to_json(), share.cpus), share


def _count_damage(damaged: int, error: Exception, name: str, store: Store) -> None:
    """Logs a damaged checkpoint; raises TrainError when there are too many."""
    logger.warning("training %s met a damaged checkpoint: %s", name, error)
    if damaged == DAMAGE_ATTEMPTS:
        raise TrainError(
            f"training {name} met damaged checkpoints {DAMAGE_ATTEMPTS} times; check the disk or the bucket of "
            f"{store.root}. Calling again resumes from the last whole checkpoint. The last error: {error}"
        )


def _store_result(store: Store, name: str, result: TrainResult) -> None:
    lock.check(store.root)  # a process that lost the lock must not delete the checkpoints of the next one
    store.put_bytes(f"train/{name}/result.json", json.dumps(result.to_json()).encode())
    for entry in store.list(f"train/{name}/checkpoint_"):
        store.delete(entry.key)


def quiet_ray() -> None:
    """Settings that Ray Train and Tune read from this process's environment when they start."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # 2 s by default; delays every fit
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative sources are the same in a worker
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune prints nothing of its own


def _fit_on_cluster(
    job: Job, name: str, share: Share, listeners: list[Callable[[Row], None]], resume: str | None
) -> None:
    """Runs the trainer in a thread, and passes every epoch's metrics to the listeners in this one.

    Raises:
        TrainError: the training cannot run, or failed finally.
        Unusable: the checkpoint to resume from is damaged.
    """
    from ray.train import TrainingFailedError
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    try:
        trainer = _trainer(job, name, share, queue, resume)
        outcome: Future[Any] = Future()
        # fit() takes over Ctrl-C when called in the main thread, and would exit with status 0.
        threading.Thread(target=_resolve, args=(outcome, trainer.fit), daemon=True).start()
        while True:
            lock.check(job.store.root)
            over = bool(wait([outcome], timeout=POLL_SECONDS).done)  # before the queue is emptied
            while not queue.empty():
                row = queue.get()
                for listener in listeners:
                    listener(row)
            if over:
                outcome.result()
                return
    except TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, Unusable):
            raise cause from error
        raise TrainError(_explain(error, name, job.recipe)) from error
    finally:
        queue.shutdown(force=True)


def _resolve(outcome: Future[Any], call: Callable[[], Any]) -> None:
    try:
        outcome.set_result(call())
    except BaseException as error:
        outcome.set_exception(error)


def _trainer(job: Job, name: str, share: Share, queue: Any, resume: str | None) -> TorchTrainer:
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig

    from pipelines.training.rendezvous import NodeTorchConfig

    run_config: Any = RunConfig(  # Any: TorchTrainer is annotated with the older RunConfig, which it refuses
        name=name,
        **storage(job.store, "train"),
        callbacks=[_epoch_reporter(queue)],
        failure_config=FailureConfig(
            max_failures=job.recipe.trainer.max_failures, controller_failure_limit=START_ATTEMPTS
        ),
        # The two best by the primary metric, and always the latest.
        checkpoint_config=CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute=SCORE, checkpoint_score_order=order(job.recipe)
        ),
        logging_config=LoggingConfig("ERROR"),
    )
    return _prompt(TorchTrainer)(
        loop,
        train_loop_config={"job": job, "resume": resume},
        torch_config=NodeTorchConfig(),
        scaling_config=ray_train.ScalingConfig(
            num_workers=job.recipe.trainer.workers, use_gpu=share.gpu, resources_per_worker=share.resources()
        ),
        run_config=run_config,
    )


def _prompt(trainer: type[TorchTrainer]) -> type[TorchTrainer]:
    """The trainer, without a wait of 12 s at the end of every run on a cluster without a dashboard (Ray 2.60).

    Ray's placement group cleaner asks the dashboard whether the controller is alive; without a dashboard it only waits
    for the timeout. If Ray renames the class, only the wait comes back.
    """
    from ray._private.worker import get_dashboard_url

    if get_dashboard_url():
        return trainer

    class Prompt(trainer):  # type: ignore[misc, valid-type]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [one for one in callbacks if type(one).__name__ != "PlacementGroupCleanerCallback"]

    return Prompt


def _epoch_reporter(queue: Any) -> Any:
    from ray.train import UserCallback

    class EpochReporter(UserCallback):
        """Runs in the controller: sends rank 0's epochs to the driver, and ends the run after a fatal error."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            row = unranked(metrics[0])
            if row:  # none in mid-epoch
                queue.put(row)

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                if isinstance(error, FatalError):
                    raise error  # an error of the controller is final, one of a worker is retried

    return EpochReporter()


def _explain(error: Exception, name: str, recipe: Recipe) -> str:
    cause = getattr(error, "controller_failure", None)
    if isinstance(cause, FatalError):
        return str(cause)
    if cause is not None:
        return f"training {name} could not run: {cause}; calling again resumes from the last checkpoint"
    return (
        f"training {name} failed more than trainer.max_failures={recipe.trainer.max_failures} times; "
        f"calling again resumes from the last checkpoint. The last error was:\n{error}"
    )


def _writer(run: Run) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        try:
            run.log(row, step=int(row["epoch"]))
        except Exception as error:  # an unreachable MLflow must not end a training; _catch_up writes it later
            logger.warning("epoch %d is not in MLflow yet: %s", row["epoch"], error)

    return write


def _catch_up(run: Run, history: Sequence[Row]) -> None:
    """Logs epochs that are missing in MLflow, such as those between the last checkpoint and a crash."""
    written = {metric.step for metric in run.client.get_metric_history(run.run_id, "epoch")}
    for row in history:
        if int(row["epoch"]) not in written:
            run.log(row, step=int(row["epoch"]))


def _bar(recipe: Recipe, progress: Report) -> Callable[[Row], None]:
    metric = f"valid/{recipe.gates.primary}"

    def show(row: Row) -> None:
        label = f"{recipe.gates.primary} {in_unit(recipe.gates.primary, row[metric], 1)}" if metric in row else ""
        if "stage" in row:
            names = [*(stage.name for stage in recipe.trainer.curriculum), JOINT]
            label = f"{names[int(row['stage'])]} {label}"
        progress(int(row["epoch"]), recipe.trainer.epochs, label)

    return show
