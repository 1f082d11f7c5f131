"""Several roots on one MLflow: a registered model follows the ledger of one of them, and the others are refused."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.registry import ownership
from pipelines.registry.registry import Registry, RegistryError
from pipelines.storage.store import Store
from tests.conftest import FinishedNight
from tests.support.shared_mlflow import NAME, as_night, without_tags


def aliases(registry: Registry) -> dict[str, int]:
    return registry.aliases(NAME)


def test_a_fresh_root_cannot_move_anothers_alias(small_root: Path, team: Path, weights: Path, tmp_path: Path) -> None:
    fresh, owner = Registry(Store(tmp_path / "fresh")), Registry(Store(small_root))
    owner.claim(NAME)
    for act in (
        lambda: fresh.check(NAME),
        lambda: fresh.claim(NAME),
        lambda: fresh.register(NAME, weights / "4"),
        lambda: fresh.promote(NAME, 3, "mine", "ben"),
        lambda: fresh.rollback(NAME, "mine", "ben"),
    ):
        with pytest.raises(RegistryError, match=f"belongs to another root, .*{small_root}.*motet adopt {NAME}"):
            act()
    assert aliases(fresh) == {"champion": 2, "challenger": 3}
    assert [version.version for version in fresh.versions(NAME)] == [3, 2, 1]
    assert fresh.history(NAME) == []
    assert fresh.load(f"models:/{NAME}@champion").predict(["play soft rock"])  # reading is everybody's
    assert owner.rollback(NAME, "no good", "ana").version == 1


def test_a_fresh_root_is_refused_before_it_trains(
    finished_night: FinishedNight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows

    shutil.copy(Path(finished_night.root) / "mlflow.db", tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    fresh = str(tmp_path / "fresh")
    with pytest.raises(RegistryError, match="belongs to another root"):
        flows.search(finished_night.recipe, root=fresh, train_winner=True)
    assert Store(fresh).list("manifests/") == []
    with pytest.raises(RegistryError, match="belongs to another root"):
        flows.nightly(finished_night.recipe, root=fresh)
    assert Store(fresh).list("train/") == []
    assert Store(fresh).list("features/") == []


def test_a_model_of_an_earlier_motet_goes_to_the_root_that_knows_its_champion(
    small_root: Path, team: Path, tmp_path: Path
) -> None:
    without_tags(team)
    fresh, owner = Registry(Store(tmp_path / "fresh")), Registry(Store(small_root))
    with pytest.raises(RegistryError, match=r"champion of assistant in this MLflow is version 2, .*has no champion"):
        fresh.claim(NAME)
    assert owner.claim(NAME) == []
    with pytest.raises(RegistryError, match="belongs to another root"):
        fresh.claim(NAME)


def test_equal_numbers_of_an_earlier_motet_are_no_proof(
    small_root: Path, team: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another root whose champion, on an MLflow of its own, was version 2 too; its store knows those weights."""
    without_tags(team)
    as_night(small_root, 2, weights / "4")
    with pytest.raises(RegistryError, match="another root made that model"):
        Registry(Store(small_root)).claim(NAME)
    as_night(small_root, 2, weights / "2")
    assert Registry(Store(small_root)).claim(NAME) == []


def test_without_a_champion_the_root_that_trained_it_has_it(small_root: Path, team: Path, tmp_path: Path) -> None:
    without_tags(team)
    one, other = Registry(Store(tmp_path / "one")), Registry(Store(tmp_path / "other"))
    one.client.delete_registered_model_alias(NAME, "champion")
    one.client.set_model_version_tag(NAME, "3", "motet.night", "assistant-1f0c-1")
    one.store.put_bytes("train/assistant-1f0c-1/result.json", b"{}")
    with pytest.raises(RegistryError, match="has 3 versions, and none was made by"):
        other.claim(NAME)
    one.claim(NAME)
    with pytest.raises(RegistryError, match="belongs to another root"):
        other.claim(NAME)


def test_a_copy_of_a_root_is_told_from_the_one_that_went_on(small_root: Path, team: Path, tmp_path: Path) -> None:
    Registry(Store(small_root)).claim(NAME)
    copied = Registry(Store(shutil.copytree(small_root, tmp_path / "copy")))
    original = Registry(Store(small_root))
    copied.promote(NAME, 3, "the copy goes on", "ana")
    for act in (lambda: original.promote(NAME, 1, "mine", "ben"), lambda: original.rollback(NAME, "mine", "ben")):
        with pytest.raises(RegistryError, match=r"line 3 of the ledger of assistant.*is a copy of the root"):
            act()
    assert original.state(NAME).champion == 2
    assert aliases(original)["champion"] == 3

    line = original.adopt(NAME, "the copy's disk is lost", "ana")
    assert (line.action, line.version) == ("adopt", 3)
    assert original.promote(NAME, 1, "known to be good", "ana").effective
    assert aliases(original)["champion"] == 1
    with pytest.raises(RegistryError, match="is a copy of the root"):
        copied.rollback(NAME, "mine", "ben")
    assert aliases(original)["champion"] == 1


def test_adopting_makes_the_champion_in_mlflow_the_ledgers(
    small_root: Path, team: Path, weights: Path, tmp_path: Path
) -> None:
    fresh = Registry(Store(tmp_path / "fresh"))
    fresh.adopt(NAME, "the team's root is gone", "ana")
    assert fresh.state(NAME).champion == 2
    assert fresh.promote(NAME, 3, "better", "ana").effective
    assert fresh.rollback(NAME, "not better", "ana").version == 2
    assert fresh.register(NAME, weights / "4").version == 4
    with pytest.raises(RegistryError, match=r"belongs to another root, .*fresh"):
        Registry(Store(small_root)).promote(NAME, 3, "mine", "ben")
    with pytest.raises(RegistryError, match="no model is named 'ghost'"):
        fresh.adopt("ghost", "?", "ana")


def test_another_mlflow_is_not_taken_for_a_lost_one(
    small_root: Path, three_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLFLOW_TRACKING_URI forgotten, or set by mistake: the ledger must not forget its champions for it."""
    registry = Registry(Store(small_root))
    (small_root / "mlflow.db").rename(tmp_path / "team.db")
    with pytest.raises(RegistryError, match=r"has 2 lines, and this MLflow has neither.*MLFLOW_TRACKING_URI"):
        registry.claim(NAME)
    assert registry.state(NAME).champion == 2
    registry.adopt(NAME, "a new server", "ana")
    assert registry.state(NAME).champion is None
    assert registry.check(NAME) is None

    # Back on the old one: its champion is not the one that the ledger has gone on with.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    with pytest.raises(RegistryError, match=r"is a copy of the root .* or an older state of it"):
        Registry(Store(small_root)).claim(NAME)


def test_of_two_fresh_roots_one_gets_the_name(team: Path, tmp_path: Path) -> None:
    registries = [Registry(Store(tmp_path / name)) for name in ("one", "other")]

    def claim(name: str, registry: Registry) -> str:
        try:
            registry.claim(name)
        except RegistryError as error:
            return str(error)
        return "claimed"

    for round_ in range(4):
        name = f"contested{round_}"
        with ThreadPoolExecutor(2) as pool:
            outcomes: list[Any] = list(pool.map(claim, [name] * 2, registries))
        assert sorted(outcome == "claimed" for outcome in outcomes) == [False, True], outcomes
        model = registries[0].registered(name)
        assert model is not None
        winner = registries[outcomes.index("claimed")]
        assert model.tags[ownership.ROOT_TAG] == ownership.identity(winner.store)
    assert "contested0" not in registries[0].models()  # a reserved name is no model yet


def test_a_root_keeps_its_id_wherever_it_is(small_root: Path, tmp_path: Path) -> None:
    before = ownership.identity(Store(small_root))
    moved = small_root.rename(tmp_path / "elsewhere")
    assert ownership.identity(Store(moved)) == before
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(ownership.identity, [Store(tmp_path / "fresh") for _ in range(8)]))
    assert len(set(ids)) == 1
    assert ids[0] != before
