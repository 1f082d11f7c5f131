"""Versions, aliases and models that somebody deleted on MLflow's page, and what the ledger makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from motet.commands import app
from mtl.inference.predictor import Predictor
from pipelines.admin.doctor import registry as registry_checks
from pipelines.registry.deleted_versions import StoredVersion, stored_copy
from pipelines.registry.ledger import ALL, Ledger, Line, fold
from pipelines.registry.registry import Registry, RegistryError
from pipelines.stages.held_out import current_champion, judged
from pipelines.storage.store import Store
from tests.support.shared_mlflow import NAME, as_night


def actions(registry: Registry) -> list[tuple[str, int]]:
    return [(line.action, line.version) for line in registry.history(NAME)]


def test_the_champion_before_a_deleted_one_reigns_again(small_root: Path, weights: Path) -> None:
    registry = Registry(Store(small_root))
    registry.client.delete_model_version(NAME, "2")
    # Before anything is written: who reads gets the newest one left, and is told.
    expected = Predictor.load(weights / "1").predict(["play soft rock"])
    assert registry.load(f"models:/{NAME}@champion").predict(["play soft rock"]) == expected
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.version == 1
    assert [check.state for check in registry_checks(str(small_root))] == ["warn"]

    (note,) = registry.claim(NAME)
    assert "version 2, the champion, was deleted from MLflow (ledger line 3); version 1 is champion" in note
    assert "the store has no copy of version 2, so candidates are compared with version 1" in note
    assert actions(registry)[2:] == [("lost", 2)]
    assert registry.aliases(NAME) == {"champion": 1, "challenger": 3}
    assert registry.claim(NAME) == [note]  # told every night, written once
    assert len(registry.history(NAME)) == 3
    shown = CliRunner().invoke(app, ["leaderboard", NAME, "--root", str(small_root)]).output
    assert "warning: assistant: version 2, the champion, was deleted" in " ".join(shown.split())

    assert registry.promote(NAME, 3, "my word", "ana").effective
    assert registry.claim(NAME) == []
    assert registry.rollback(NAME, "not that good", "ana").version == 1
    with pytest.raises(RegistryError, match="version 1 is its first champion"):
        registry.rollback(NAME, "again", "ana")


def test_a_deleted_champion_is_still_the_one_to_beat(small_root: Path, weights: Path) -> None:
    registry = Registry(Store(small_root))
    as_night(small_root, 2, weights / "2")
    registry.client.delete_model_version(NAME, "2")
    (note,) = registry.claim(NAME)
    assert "candidates are compared with version 2 itself, from the store's copy" in note
    against = current_champion(registry, NAME, 3)
    assert isinstance(against, StoredVersion)
    assert (against.version, registry.state(NAME).champion) == (2, 1)
    expected = Predictor.load(weights / "2").predict(["play soft rock"])
    assert Predictor.load(against.folder).predict(["play soft rock"]) == expected
    # A version that got the number after that is another one.
    assert stored_copy(registry.store, NAME, 2, until="2000-01-01") is None
    registry.promote(NAME, 3, "my word", "ana")
    successor = current_champion(registry, NAME, 1)
    assert successor is not None
    assert successor.version == 3


def test_rollback_never_leads_to_a_deleted_version(small_root: Path) -> None:
    registry = Registry(Store(small_root))
    registry.promote(NAME, 3, "better still", "me")
    registry.client.delete_model_version(NAME, "2")
    line = registry.rollback(NAME, "by hand", "ana")
    assert (line.version, line.expects) == (1, 3)
    assert actions(registry)[3:] == [("lost", 2), ("rollback", 1)]
    assert registry.aliases(NAME) == {"champion": 1, "challenger": 3}


def test_rollback_from_a_deleted_champion(small_root: Path) -> None:
    registry = Registry(Store(small_root))
    registry.client.delete_model_version(NAME, "2")
    result = CliRunner().invoke(app, ["rollback", NAME, "--root", str(small_root)])
    assert (result.exit_code, result.output.strip()) == (0, f"{NAME} version 1 is champion again")
    assert registry.aliases(NAME) == {"champion": 1, "challenger": 3}
    registry.client.delete_model_version(NAME, "1")
    with pytest.raises(RegistryError, match="cannot be rolled back"):
        registry.rollback(NAME, "again", "ana")
    registry.claim(NAME)
    assert registry.state(NAME).champion is None


def test_a_deleted_model_starts_anew(small_root: Path, weights: Path) -> None:
    registry = Registry(Store(small_root))
    as_night(small_root, 2, weights / "2")
    Ledger(registry.store, NAME).append("keep", 1, 2, "as if judged", "gate", decision={"champion": f"{NAME}/2"})
    registry.client.delete_registered_model(NAME)
    (note,) = registry.claim(NAME)
    assert "no version is champion, and candidates are compared with version 2 itself" in note
    assert actions(registry)[3:] == [("lost", ALL)]
    assert registry.register(NAME, weights / "4").version == 1
    assert judged(registry, NAME, 1) is None  # that line was about another version 1
    assert registry.n_comparisons(NAME, None) == 1
    against = current_champion(registry, NAME, 1)
    assert against is not None
    assert against.version == 2
    registry.promote(NAME, 1, "first", "ana")
    assert registry.aliases(NAME)["champion"] == 1
    with pytest.raises(RegistryError, match="is its first champion"):
        registry.rollback(NAME, "?", "ana")


def test_a_model_that_is_deleted_while_a_night_trains(small_root: Path, weights: Path) -> None:
    registry = Registry(Store(small_root))
    registry.claim(NAME)
    registry.client.delete_registered_model(NAME)
    assert registry.register(NAME, weights / "4").version == 1
    assert actions(registry)[2:] == [("lost", ALL)]


def test_an_alias_that_was_deleted_or_moved_follows_the_ledger_again(small_root: Path) -> None:
    registry = Registry(Store(small_root))
    registry.client.delete_registered_model_alias(NAME, "champion")
    assert [check.state for check in registry_checks(str(small_root))] == ["warn"]
    assert registry.claim(NAME) == [
        f"{NAME}: @champion was missing in MLflow; it is on version 2 again, as the ledger says"
    ]
    registry.client.set_registered_model_alias(NAME, "champion", "3")
    (note,) = registry.claim(NAME)
    assert "was on version 3 in MLflow; it is on version 2 again" in note
    assert registry.aliases(NAME)["champion"] == 2
    assert [check.state for check in registry_checks(str(small_root))] == ["ok"]
    assert len(registry.history(NAME)) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["promote", "keep", "rollback", "lost", "adopt"]), st.integers(0, 4), st.integers(0, 4)
        )
    )
)
def test_a_lost_version_reigns_no_more(written: list[tuple[str, int, int]]) -> None:
    lines = [
        Line(n, "", action, version, expects or None, "", "")  # type: ignore[arg-type]
        for n, (action, version, expects) in enumerate(written, start=1)
    ]
    for end, line in enumerate(fold(lines).lines, start=1):
        state = fold(lines[:end])
        assert all(left != right for left, right in zip(state.champions, state.champions[1:], strict=False))
        if line.effective and line.action == "lost":
            assert line.version not in state.champions
            assert line.version != ALL or state.champions == ()
        if line.effective and line.action == "adopt":
            assert state.champions == ((line.version,) if line.version else ())
        assert state.before(line).lines == state.lines[:-1]
