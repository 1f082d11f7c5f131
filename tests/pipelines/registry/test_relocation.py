"""A root that was moved: MLflow's database holds absolute paths, and all is read and written where it is."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from motet.commands import app
from mtl.inference.predictor import Predictor
from pipelines.registry.registry import Registry, RegistryError
from pipelines.registry.relocation import RelocationError, located, relocate
from pipelines.storage.store import Store
from tests.conftest import ROOT, FinishedNight
from tests.support.shared_mlflow import NAME

PATHS = (
    "SELECT artifact_location FROM experiments WHERE experiment_id != '0' UNION SELECT artifact_uri FROM runs UNION "
    "SELECT artifact_location FROM logged_models UNION SELECT storage_location FROM model_versions"
)


def paths(small_root: Path) -> list[str]:
    with closing(sqlite3.connect(small_root / "mlflow.db")) as database:
        return [path for (path,) in database.execute(PATHS)]


@pytest.mark.parametrize("name", ["elsewhere", "another place/wörter"])
def test_a_moved_root_is_read_and_then_written_where_it_is(
    name: str, small_root: Path, three_versions: Path, weights: Path, tmp_path: Path
) -> None:
    home = tmp_path / name
    home.parent.mkdir(exist_ok=True)
    small_root.rename(home)
    before = paths(home)
    assert all(path.startswith(three_versions.as_uri()) for path in before)
    registry = Registry(Store(home))
    expected = Predictor.load(weights / "2").predict(["play soft rock"])
    assert registry.load(f"models:/{NAME}@champion").predict(["play soft rock"]) == expected
    assert registry.folder(f"models:/{NAME}/1").is_relative_to(home)  # not the root that lies at the old path
    assert paths(home) == before  # reading changes nothing

    files = sorted(three_versions.rglob("*"))
    assert registry.register(NAME, weights / "4").version == 4
    assert all(path.startswith(f"{home.as_uri()}/mlartifacts") for path in paths(home))
    assert sorted(three_versions.rglob("*")) == files
    assert registry.load(f"models:/{NAME}@champion").predict(["play soft rock"]) == expected
    package = registry.client.get_logged_model(registry.client.get_model_version(NAME, "1").source.split("/")[-1])
    assert package.artifact_location.startswith(home.as_uri())
    assert relocate(home) is False


def test_a_path_to_the_root_that_is_a_link_moves_nothing(small_root: Path, tmp_path: Path) -> None:
    relocate(small_root)
    (tmp_path / "link").symlink_to(small_root)
    before = paths(small_root)
    assert relocate(tmp_path / "link") is False
    assert paths(small_root) == before


def test_a_root_in_use_by_its_other_path_is_left_alone(small_root: Path) -> None:
    """One folder that two machines, or a container and its host, see at two paths."""
    before = paths(small_root)
    code = (
        "import sys; from pipelines.storage.lock import one_at_a_time\n"
        f"with one_at_a_time({str(small_root)!r}, 'night of other'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RelocationError, match=f"in use: night of other, process {holder.pid}"):
            relocate(small_root)
        assert paths(small_root) == before
        assert Registry(Store(small_root)).folder(f"models:/{NAME}/1").is_relative_to(small_root)  # reading goes on
        holder.kill()
    assert relocate(small_root) is True


def test_artifacts_on_another_disk_stay_there(small_root: Path, tmp_path: Path) -> None:
    """A server's --default-artifact-root: its experiments are numbered folders in it."""
    disk = (tmp_path / "disk" / "mlartifacts").as_uri()
    with closing(sqlite3.connect(small_root / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'assistant'", (f"{disk}/1",))
    assert relocate(small_root) is False
    assert f"{disk}/1" in paths(small_root)
    assert located(f"{disk}/1/models/m-1/artifacts", small_root) == f"{disk}/1/models/m-1/artifacts"
    assert located("s3://bucket/mlartifacts/1", small_root) == "s3://bucket/mlartifacts/1"


def test_a_root_that_was_copied_without_its_artifacts_says_so(small_root: Path) -> None:
    shutil.rmtree(small_root / "mlartifacts")
    relocate(small_root)
    with pytest.raises(RegistryError, match=r"the files of assistant version 2 are not at file:.*without its folder"):
        Registry(Store(small_root)).load(f"models:/{NAME}@champion")


def test_a_night_in_a_moved_root_whose_champion_was_deleted(finished_night: FinishedNight, tmp_path: Path) -> None:
    import flows

    root = str(shutil.copytree(finished_night.root, tmp_path / "moved"))
    answer = CliRunner().invoke(app, ["predict", "--text", "play jazz", "--model", "small/1", "--root", root, "--json"])
    assert json.loads(answer.stdout)[0]["model"] == "models:/small/1"
    again = flows.nightly(finished_night.recipe, root=root)
    assert again["state"] == "nothing new"
    assert Path(again["report"]).is_relative_to(root)
    assert Path(again["report"]).is_file()

    registry = Registry(root)
    registry.client.delete_model_version("small", "1")
    outcome = flows.nightly(finished_night.recipe, root=root, overrides=["seed=11"])
    assert outcome["champion"] == "small v1"  # scored from the store
    (warning,) = outcome["warnings"]
    assert "version 1, the champion, was deleted from MLflow" in warning
    assert "candidates are compared with version 1 itself, from the store's copy" in warning
    assert "was deleted from MLflow" in Path(outcome["report"]).read_text()
    lost, decided = registry.history("small")[-2:]
    assert (lost.action, lost.version) == ("lost", 1)
    assert decided.action == ("promote" if outcome["promoted"] else "keep")
    run = registry.client.get_run(registry.version("small", int(outcome["model"].rpartition("/")[2])).run_id)
    assert run.info.artifact_uri.startswith(Path(root).as_uri())
