"""Round trips without pickle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl import checkpoint

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
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "state.json"}


def test_what_would_need_pickle_is_refused(tmp_path):
    with pytest.raises(TypeError, match="loader/plan is set"):
        checkpoint.save(tmp_path, {"loader": {"plan": {1, 2}}})
