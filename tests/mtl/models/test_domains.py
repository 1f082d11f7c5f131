"""Domains of recordings: off is the base, each row gets its own, the unknown gets none; 2 ranks == 1, resume exact."""

from __future__ import annotations

import copy
import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mtl.config.balancing import METHODS
from mtl.config.features import FeatureSpec
from mtl.config.model import DomainConfig, ModelConfig
from mtl.config.sharing import MODES
from mtl.config.training import FitConfig
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.models.domains import Domains
from mtl.models.joint import SpeechModel, build_model
from mtl.sharing.adapter import Film
from mtl.training.fit import fit
from tests.support import tiny

OF = {"a1": "home", "a2": "car", "a3": "home", "a4": "car", "a5": "street"}  # a6 has none
SETTINGS = FitConfig(epochs=2, learning_rate=1e-2, precision="fp32", device="cpu")
BOTH = DomainConfig(conditioning=True, adapters=True, rank=2, bottleneck=4, dropout=0.0)


def rows() -> list[dict[str, Any]]:
    return [{**row, "corpus": OF.get(row["id"])} for row in tiny.rows()]


def codec() -> Codec:
    return Codec.build(rows(), tiny.TASKS, domain_by="corpus")


def made(domains: DomainConfig = BOTH, seed: int = 0, **settings: Any) -> SpeechModel:
    torch.manual_seed(seed)
    return build_model(tiny.config(domains=domains, **settings), codec()).eval()


def heard(model: SpeechModel, *ids: str) -> Batch:
    chosen = [row for row in rows() if row["audio"] and (not ids or row["id"] in ids)]
    return collate([model.codec.encode(row) for row in chosen], [tiny.features(row) for row in chosen])


def stirred(model: SpeechModel) -> SpeechModel:
    """With the domains' parameters at random values, as if trained."""
    assert model.domains is not None
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.domains.parameters():
            parameter.normal_(0, 0.5)
    return model


def states(model: SpeechModel, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {task: found.hidden for task, found in model.encode(batch, ("transcript", "intent")).items()}


def test_the_vocabulary_is_that_of_the_training_recordings() -> None:
    found = Codec.build([*rows(), {"id": "t", "text": "stop", "audio": None, "corpus": "book"}], (), domain_by="corpus")
    assert found.domains == ("car", "home", "street")  # and no book, which nobody speaks
    assert [found.encode({"corpus": name}).domain for name in ("car", "street", "moon", None)] == [1, 3, 0, 0]
    assert Codec.from_json(json.loads(json.dumps(found.to_json()))).domains == found.domains
    assert "domains" not in tiny.codec().to_json()
    assert tiny.codec().encode({"corpus": "car"}).domain == 0


def test_film_of_rows_by_hand() -> None:
    film = Film(width=2, rank=1)
    with torch.no_grad():
        film.up.copy_(torch.tensor([[1.0], [2.0], [10.0], [20.0]]))  # gamma, then beta, of each channel
    x = torch.tensor([[[1.0, 1.0]], [[3.0, 5.0]]])
    given = film(x, torch.tensor([[1.0], [-1.0]]))
    assert torch.equal(given, torch.tensor([[[12.0, 23.0]], [[-10.0, -25.0]]]))
    assert torch.equal(film(x, torch.tensor([1.0])), torch.tensor([[[12.0, 23.0]], [[16.0, 35.0]]]))


@pytest.mark.parametrize("mode", sorted(MODES))
def test_untrained_it_is_the_base_bit_for_bit(mode: str) -> None:
    base, told = made(DomainConfig(), sharing=mode), made(sharing=mode)
    assert base.domains is None
    theirs = dict(told.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in base.named_parameters())
    batch = heard(told)
    ours, other = states(base, batch), states(told, batch)
    assert all(torch.equal(ours[task], other[task]) for task in ours)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_each_row_gets_its_own_domain_whatever_stands_beside_it(mode: str) -> None:
    model = stirred(made(sharing=mode))
    batch = heard(model)
    assert batch.domains.tolist() == [2, 1, 2, 1, 3, 0]
    together, lengths = states(model, batch), model.lengths(batch)
    for row, id_ in enumerate(batch.ids):  # also shows that padding has no say
        alone = states(model, heard(model, id_))
        for task in together:
            torch.testing.assert_close(together[task][row, : lengths[row]], alone[task][0], rtol=1e-4, atol=1e-5)


def test_a_domain_changes_its_rows_and_no_other() -> None:
    model = stirred(made())
    batch = heard(model)
    before = states(model, batch)["transcript"]
    moved = states(model, replace(batch, domains=torch.tensor([2, 3, 2, 1, 3, 0])))["transcript"]
    changed = [not torch.allclose(one, other, atol=1e-4) for one, other in zip(before, moved, strict=True)]
    assert changed == [False, True, False, False, False, False]


def test_an_unknown_domain_gets_the_bare_trunk() -> None:
    model, base = stirred(made()), made(DomainConfig())
    batch = heard(model)
    unknown = states(model, replace(batch, domains=torch.zeros_like(batch.domains)))
    bare = states(base, batch)
    assert all(torch.equal(unknown[task], bare[task]) for task in bare)
    known = states(model, batch)
    assert not torch.allclose(known["transcript"][0], bare["transcript"][0], atol=1e-3)
    torch.testing.assert_close(known["transcript"][5], bare["transcript"][5], rtol=1e-4, atol=1e-5)  # a6


def test_text_has_no_domain() -> None:
    model, base = stirred(made()), made(DomainConfig())
    batch = collate([model.codec.encode(row) for row in rows() if not row["audio"]])
    with torch.no_grad():
        told, bare = model.encode(batch, ("intent",)), base.encode(batch, ("intent",))
    assert torch.equal(told["intent"].hidden, bare["intent"].hidden)


def test_dropout_withholds_the_stated_share_and_only_in_training() -> None:
    domains = Domains(2, 4, DomainConfig(conditioning=True, dropout=0.25), dropout=0.0)
    torch.manual_seed(0)
    given = domains.train().with_dropout(torch.full((4000,), 2))
    assert set(given.tolist()) == {0, 2}
    assert (given == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)  # 3 standard deviations
    assert torch.equal(domains.eval().with_dropout(torch.full((4000,), 2)), torch.full((4000,), 2))


def test_an_absent_domains_adapter_takes_no_part_in_a_step() -> None:
    model = made().train()
    batch = heard(model, "a1", "a2", "a3")
    sum(loss for loss, _ in model.losses(batch).values()).backward()  # type: ignore[union-attr]
    assert model.domains is not None
    for adapters in (model.domains.entry, model.domains.exit):
        gradients = [[p.grad is not None for p in adapter.parameters()] for adapter in adapters]
        assert all(gradients[0])
        assert all(gradients[1])
        assert not any(gradients[2])


def test_its_parameters_are_balanced_where_tasks_meet() -> None:
    model = made()
    assert model.domains is not None
    shared, front = ({id(p) for p in part} for part in (model.shared_parameters(), model.front_parameters()))
    assert {id(p) for p in model.domains.exit.parameters()} <= shared
    assert {id(p) for p in model.domains.entry.parameters()} <= front
    assert not shared & front
    assert id(model.domains.embedding) in front


def batches(model: SpeechModel) -> list[tuple[Batch, ...]]:
    read = [row for row in rows() if not row["audio"]]
    ids = [row["id"] for row in rows() if row["audio"]]
    return [(heard(model, id_), collate([model.codec.encode(row)])) for id_, row in zip(ids, read, strict=True)]


@pytest.mark.parametrize("balancing", ["static", "pcgrad"])
def test_a_resumed_training_is_the_uninterrupted_one(balancing: str) -> None:
    settings = replace(SETTINGS, balancing=METHODS.select(balancing))
    domains = replace(BOTH, dropout=0.3)

    def trained(resume: dict[str, Any] | None = None) -> tuple[SpeechModel, list[dict[str, Any]]]:
        kept: list[dict[str, Any]] = []
        model = made(domains)

        def keep(_metrics: dict[str, float], state: dict[str, Any] | None) -> None:
            kept.append({} if state is None else copy.deepcopy(state))

        fit(model, tiny.TinyLoader(batches(model), 2), settings, report=keep, resume=resume)
        return model, kept

    whole, kept = trained()
    resumed, _ = trained(kept[0])
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert whole.domains is not None
    assert whole.domains.film is not None
    assert whole.domains.film.up.abs().max() > 0
    assert whole.domains.exit[0].up.weight.abs().max() > 0


def _rank(rank: int, world: int, port: int, folder: str, settings: FitConfig) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    model = made(replace(BOTH, dropout=0.3), seed=rank)
    fit(model, tiny.TinyLoader(batches(model), 2, rank, world), settings)
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("method", ["static", "pcgrad", "upgrad"])
def test_two_ranks_are_one(method: str, tmp_path: Path) -> None:
    """In every step but the last, each rank has a domain that the other lacks."""
    settings = replace(SETTINGS, balancing=METHODS.select(method))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, (2, port, str(tmp_path), settings), nprocs=2)  # type: ignore[no-untyped-call]
    alone = made(replace(BOTH, dropout=0.3))
    fit(alone, tiny.TinyLoader(batches(alone), 2), settings)
    for rank in (0, 1):
        for name, tensor in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-4, atol=2e-5, msg=name)


def test_a_package_keeps_its_domains_and_may_be_told_of_one(tmp_path: Path) -> None:
    model = stirred(made())
    spec = FeatureSpec(bins=tiny.BINS)
    Predictor(model, spec).save(tmp_path)
    again = Predictor.load(tmp_path, device="cpu")
    assert again.model.config == model.config
    assert again.codec.domains == ("car", "home", "street")
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    unknown, home = (again.with_options(domain=name).predict([sound])[0] for name in (None, "home"))
    base = Predictor(made(DomainConfig()), spec).predict([sound])[0]
    assert unknown.labels["intent"].confidence == pytest.approx(base.labels["intent"].confidence, abs=1e-6)
    assert abs(home.labels["intent"].confidence - unknown.labels["intent"].confidence) > 1e-4
    with pytest.raises(ValueError, match="no domain 'moon': it knows car, home, street"):
        again.with_options(domain="moon")
    with pytest.raises(ValueError, match="it is told of none"):
        Predictor(build_model(tiny.config(), tiny.codec()), spec).with_options(domain="home")


def test_a_model_that_is_told_nothing_is_written_as_before() -> None:
    assert "domains" not in tiny.config().to_json()
    told = tiny.config(domains=BOTH)
    assert ModelConfig.from_json(json.loads(json.dumps(told.to_json()))) == told
    assert isinstance(made().domains, nn.Module)
