"""Round trips without pickle; what was damaged on the way is not loaded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl.training import checkpoint

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=12
)


@given(tree=st.dictionaries(st.text(), trees))
def test_plain_values_come_back(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("state")
    checkpoint.save(folder, tree)
    assert checkpoint.load(folder) == tree


def test_tensors_come_back_with_kind_and_shape(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "optimiser": {"state": {0: {"step": torch.tensor(3.0), "moment": shared.view(2, 3)}}, "groups": [{"lr": 0.1}]},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "same storage": shared[:2],
    }
    checkpoint.save(tmp_path, state)
    found = checkpoint.load(tmp_path)
    torch.testing.assert_close(found["optimiser"]["state"][0]["moment"], shared.view(2, 3))
    assert found["optimiser"]["groups"] == [{"lr": 0.1}]
    assert found["half"].dtype == torch.bfloat16
    torch.testing.assert_close(found["same storage"], shared[:2])
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "state.json", "digests.json"}


def test_what_would_need_pickle_is_refused(tmp_path):
    with pytest.raises(TypeError, match="loader/plan is set"):
        checkpoint.save(tmp_path, {"loader": {"plan": {1, 2}}})


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "history.json"])
def test_a_damaged_file_is_found(tmp_path, name, damage):
    checkpoint.save(tmp_path, {"w": torch.ones(4), "step": 3}, {"history.json": [{"epoch": 1.0}]})
    assert checkpoint.load(tmp_path)["step"] == 3
    assert checkpoint.read_json(tmp_path, "history.json") == [{"epoch": 1.0}]
    damage(tmp_path / name)
    with pytest.raises(checkpoint.Damaged, match=f"{tmp_path.name}.*{name}"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", ["", '{"state.json": {"byt', "[]", '{"state.json": 3}'])
def test_damaged_digests_are_found(tmp_path, content):
    checkpoint.save(tmp_path, {"w": torch.ones(4)})
    (tmp_path / "digests.json").write_text(content)
    with pytest.raises(checkpoint.Damaged, match=r"digests.json"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_of_an_earlier_version_has_no_digests(tmp_path):
    checkpoint.save(tmp_path, {"w": torch.ones(4), "step": 3})
    (tmp_path / "digests.json").unlink()
    assert checkpoint.load(tmp_path)["step"] == 3
    truncate(tmp_path / "state.safetensors")
    with pytest.raises(checkpoint.Damaged, match=r"state.safetensors cannot be read"):
        checkpoint.load(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(checkpoint.Damaged, match=r"lacks state.safetensors"):
        checkpoint.load(tmp_path)
