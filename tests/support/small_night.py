"""A night small enough for a test: two minutes of the embedded corpus, a model of 60,000 weights, real everything.

python tests/support/small_night.py train ROOT NAME        # a driver that a test can kill; prints a line an epoch
python tests/support/small_night.py search ROOT
python tests/support/small_night.py population ROOT
python tests/support/small_night.py study ROOT
python tests/support/small_night.py night ROOT TRAINS GOES_ON  # a night that waits in an epoch between the two files
python tests/support/small_night.py joined ADDRESS FOLDER  # two workers of a Ray node note their sockets
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.data import features
from pipelines.data.ingest import ingest
from pipelines.recipe import Recipe, parse
from pipelines.registry import tracking
from pipelines.storage.store import Manifest, Store

SECOND_EPOCH, FOURTH_EPOCH = 8, 20  # steps in their middle
COMMANDS = {"utterances": 40, "valid_utterances": 12, "test_utterances": 4, "text_only_sentences": 30, "speakers": 4}
RECIPE: dict[str, Any] = {
    "name": "small",
    "corpora": [{"name": "commands", "kind": "espeak", "options": COMMANDS}],
    "model": {"width": 16, "blocks": 1, "heads": 2, "kernel": 5},
    "loader": {"batch_seconds": 12, "batch_tokens": 60, "time_masks": 1},
    "tasks": {"transcript": {}, "intent": {"weight": 0.5}, "slots": {}},
    # Two micro-batches a step, so that one worker or two may share it; a checkpoint every second.
    # fp32: in bf16 one worker and two agree to the rounding alone.
    "trainer": {
        "epochs": 6,
        "micro_batches": 2,
        "ema": 0.9,
        "precision": "fp32",
        "checkpoint_minutes": 0.017,
        "gpus": False,
    },
    "search": {"trials": 3, "epochs": 3, "objective": "mean"},
}


def recipe(**trainer: Any) -> Recipe:
    return parse({**RECIPE, "trainer": {**RECIPE["trainer"], **trainer}})


def two_tasks() -> Recipe:
    """For a study: six small models, if each is trained with two seeds."""
    return parse({**RECIPE, "tasks": {"transcript": {}, "intent": {}}, "trainer": {**RECIPE["trainer"], "epochs": 2}})


def members() -> Recipe:
    """A population of two, of which the worse takes the better one's weights after every epoch but the last."""
    return parse({**RECIPE, "search": {**RECIPE["search"], "method": "pbt", "trials": 2}})


def data(store: Store) -> tuple[list[Manifest], list[Manifest]]:
    """Utterance and feature manifests; made once in a store."""
    small = recipe()
    utterances = [ingest(corpus, small.quality, store) for corpus in small.corpora]
    return utterances, features.extract(utterances, small.features, store, parallel="local")


def loop_with_accident(marker: Path, step: int, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """The training function, with something that happens once, in the middle of an epoch, to the last worker."""

    def loop(config: dict[str, Any]) -> None:  # local, so that it travels to the workers by value
        import mtl.training.fit
        from mtl.training import parallel
        from pipelines.training import worker

        take_step = mtl.training.fit._Run.train_step

        def step_or_accident(run: Any, micro_batches: Any) -> None:
            last = parallel.rank() == parallel.world_size() - 1
            if run.step == step and last and not marker.exists():
                marker.touch()
                act()
            take_step(run, micro_batches)

        mtl.training.fit._Run.train_step = step_or_accident  # type: ignore[method-assign]
        worker.loop(config)

    return loop


def loop_with_figures(
    loop: Callable[[dict[str, Any]], None], metric: str, figures: Sequence[float]
) -> Callable[[dict[str, Any]], None]:
    """The training function, whose validation gives these figures for `metric`, one an epoch."""

    def scripted(config: dict[str, Any]) -> None:  # local, so that it travels to the workers by value
        from pipelines.training import prepare, worker

        validate = prepare.Validation.__call__
        history: list[Any] = []
        restore = worker.Reporter.restore

        def restored(report: Any, *arguments: Any) -> Any:
            state = restore(report, *arguments)
            history.extend(report.history)
            return state

        def scored(validation: Any, model: Any) -> dict[str, float]:
            row = {**validate(validation, model), metric: figures[len(history)]}
            history.append(row)
            return row

        worker.Reporter.restore = restored  # type: ignore[method-assign]
        prepare.Validation.__call__ = scored  # type: ignore[method-assign]
        loop(config)

    return scripted


def newest_checkpoints(run: Path) -> list[Path]:
    """The folder of Ray's latest checkpoint, and a newer one of which Ray did not hear before the run ended."""
    snapshot = json.loads((run / "checkpoint_manager_snapshot.json").read_text())
    latest = snapshot["latest_checkpoint_result"]["checkpoint_dir_name"]
    return [path for path in sorted(run.glob("checkpoint_*/")) if path.name >= latest]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_and_die(run: Path) -> Callable[[], None]:
    """Changes one byte in the weights of the two newest checkpoints, and kills the worker.

    One of them is Ray's latest: no more than one report is on its way to Ray.
    """

    def act() -> None:
        for folder in sorted(run.glob("checkpoint_*/"))[-2:]:
            path = folder / "state.safetensors"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        os.kill(os.getpid(), signal.SIGKILL)

    return act


def hang() -> Callable[[], None]:
    return lambda: threading.Event().wait()  # until the cluster is gone


def die() -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def wait(path: Path) -> Callable[[], None]:
    return lambda: await_files(path)


def await_files(*paths: Path, seconds: float = 450) -> None:
    deadline = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {', '.join(map(str, paths))}")
        time.sleep(0.1)


@contextmanager
def killed_driver(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This file as a process of its own, with its own Ray; killed when the block ends, however it ends."""
    command = [sys.executable, __file__, *arguments]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        yield driver
    finally:
        kill_driver(driver)


def kill_driver(driver: subprocess.Popen[str]) -> None:
    """SIGKILL, and then waits for its workers to notice: two clusters must not write to one run at a time."""
    children, workers = descendants(driver.pid), descendants(driver.pid, "ray::")
    driver.kill()
    driver.wait()
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # these outlive their cluster by a minute
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(title and not title.startswith(agents) for title in _titles(workers)):
        time.sleep(0.2)
    for pid, title in zip(children, _titles(children), strict=True):
        if title.startswith(agents):
            os.kill(pid, signal.SIGKILL)


def descendants(parent: int, title: str = "") -> list[int]:
    """Processes below `parent` whose command line begins with `title`."""
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}
    titles = {int(row[0]): row[2] if len(row) > 2 else "" for row in rows}

    def is_below(pid: int) -> bool:
        while pid in parents and pid != parent:
            pid = parents[pid]
        return pid == parent

    return [pid for pid in parents if pid != parent and titles[pid].startswith(title) and is_below(pid)]


def _titles(pids: list[int]) -> list[str]:
    """Command line of each process, empty when it is gone or a zombie that nobody waited for."""
    found = []
    for pid in pids:
        command = ["ps", "-o", "stat=,args=", "-p", str(pid)]
        state, _, title = subprocess.run(command, capture_output=True, text=True).stdout.strip().partition(" ")
        found.append("" if state.startswith("Z") else title.strip())
    return found


def night(root: str, trains: str, goes_on: str) -> None:
    from flows import nightly
    from pipelines.core import cluster
    from pipelines.training import train

    cluster.start_local(cpus=2)
    train.loop = loop_with_accident(Path(trains), 0, wait(Path(goes_on)))
    nightly(str(Path(__file__).parents[1] / "night.yaml"), root=root, overrides=["trainer.micro_batches=2"], workers=2)


def joined(address: str, folder: str) -> None:
    import ray
    from ray import train as ray_train
    from ray.cluster_utils import Cluster
    from ray.train.torch import TorchTrainer

    from pipelines.core import cluster
    from pipelines.training.rendezvous import NodeTorchConfig

    def tell() -> None:
        import torch.distributed as dist

        from tests.support.sockets import listening

        dist.barrier()
        where = [address for _, address, _ in listening(os.getpid())]
        (Path(folder) / str(dist.get_rank())).write_text("\n".join(where))
        dist.barrier()

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "node_ip_address": address})
    try:
        os.environ["RAY_ADDRESS"] = nodes.address
        cluster.connect(cpus=2)
        scaling = ray_train.ScalingConfig(num_workers=2)
        TorchTrainer(tell, scaling_config=scaling, torch_config=NodeTorchConfig()).fit()
    finally:
        ray.shutdown()
        nodes.shutdown()


def main(kind: str, root: str, name: str = "search") -> None:
    from pipelines.core import cluster
    from pipelines.search.search import search
    from pipelines.stages.context import Context
    from pipelines.study.study import study
    from pipelines.training import train

    def shown(done: int, total: int, label: str) -> None:
        print(done, label, flush=True)

    cluster.start_local(cpus=2)
    store = Store(root)
    context = Context(
        store, two_tasks() if kind == "study" else members() if kind == "population" else recipe(), *data(store)
    )
    if kind == "study":
        run = tracking.start(root, two_tasks(), "study")
        study(context, seeds=2, tracking=run, progress=shown)
        return
    run = tracking.start(root, recipe(), name)
    if kind == "train":
        train.loop = loop_with_accident(Path(root) / "hangs", SECOND_EPOCH, hang())
        train.train(recipe(), context.utterances, context.features, store, name, tracking=run)
    else:
        search(context, tracking=run, progress=shown)


if __name__ == "__main__":
    {"night": night, "joined": joined}.get(sys.argv[1], lambda *rest: main(sys.argv[1], *rest))(*sys.argv[2:])
