"""A stand-in for a GPU on a machine without one: finds operations that mix tensors of two devices.

    with shadow.device():
        fit(model, loader, replace(config, device="meta"))      # raises RuntimeError where CUDA would

A `Shadow` is a tensor that reports the device "meta" and keeps its values on the CPU, where every operation runs.
Results are therefore those of the CPU. Not covered: CUDA's kernels, autocast, memory, and the speed of anything.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from mtl.training import parallel

DEVICE = torch.device("meta")
FUSED = "_get_fused_kernels_supported_devices"  # what fused AdamW asks before it starts
COPIES = {"aten::_to_copy", "aten::copy_"}  # the operations whose purpose is to cross devices
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
JOINING = {"aten::cat", "aten::stack"}  # the only ones here that refuse a CPU scalar beside CUDA tensors
# Lazy views, whose flags a kernel does not see from inside of a dispatch: computed at once instead.
EAGER = {"aten::_conj": torch.ops.aten.conj_physical.default, "aten::_neg_view": torch.ops.aten.neg.default}
# Positions of arguments that belong on the CPU: lengths of a packed sequence. cuDNN refuses them anywhere else.
HOST_ARGUMENTS = {
    "aten::_pack_padded_sequence": 1,
    "aten::_pack_padded_sequence_backward": 2,
    "aten::_pad_packed_sequence": 1,
    "aten::lstm": 1,
}


class Shadow(Tensor):
    """A tensor that reports DEVICE; `values` is the CPU tensor that holds its numbers."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Shadow:
        shape: Any = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        shadow = Tensor._make_wrapper_subclass(cls, values.size(), dtype=values.dtype, device=DEVICE, **shape)
        shadow.values = values
        return shadow

    def tolist(self) -> Any:
        """torch's own reads the memory, of which a Shadow has none."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert shadow device type tensor to numpy. Use Tensor.cpu() first")

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_indices(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_indices(index), value)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Shadow({self.values})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _indices(index: Any) -> Any:
    """The index with tensors of the CPU for its lists, of which torch itself makes "meta" tensors without values."""
    items = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(item) if isinstance(item, list) else item for item in items)


class _Mode(TorchDispatchMode):
    """Sees every operation, so that tensors made on DEVICE become Shadows."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operation on the CPU values of its arguments; Shadows come out of it where one goes in, or is asked for."""
    name = function._schema.name
    shadows = [item for item in _tensors((args, kwargs)) if isinstance(item, Shadow)]
    device = torch.device(kwargs.get("device") or (DEVICE if shadows else "cpu"))
    if not shadows and device != DEVICE:
        return function(*args, **kwargs)
    if shadows and name not in COPIES:
        _check(name, args, kwargs)
    settings = _map(_values, kwargs)
    if "device" in settings:
        settings["device"] = torch.device("cpu")
    output = EAGER.get(name, function)(*_map(_values, args), **settings)
    if torch.Tag.inplace_view in function.tags:  # such as transpose_: the Shadow's own shape changes too
        with no_dispatch():
            function(*args, **kwargs)
    if device != DEVICE:  # a copy to the CPU, which torch leaves out between tensors of one device
        return output.clone() if any(output is shadow.values for shadow in shadows) else output
    if name == "aten::copy_" and not isinstance(args[0], Shadow):
        return args[0]
    same = {id(shadow.values): shadow for shadow in shadows}  # an operation in place gives back its argument

    def wrap(item: Tensor) -> Tensor:
        return same[id(item)] if id(item) in same else Shadow(item)

    wrapped = _map(wrap, output)
    return (wrapped[0], output[1]) if name in ("aten::_pack_padded_sequence", "aten::_pad_packed_sequence") else wrapped


def _values(item: Tensor) -> Tensor:
    return item.values if isinstance(item, Shadow) else item


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """An operation's arguments or results with every tensor changed; a tenth of the time of torch's tree_map."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([_map(change, item) for item in value])
    if isinstance(value, dict):
        return {name: _map(change, item) for name, item in value.items()}
    return value


def _tensors(value: Any) -> list[Tensor]:
    tensors: list[Tensor] = []

    def note(item: Tensor) -> Tensor:
        tensors.append(item)
        return item

    _map(note, value)
    return tensors


def _check(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises RuntimeError where CUDA does: a CPU tensor that is no scalar, beside one of the device."""
    rest = list(args)
    if name in HOST_ARGUMENTS:
        lengths = rest.pop(HOST_ARGUMENTS[name])
        if isinstance(lengths, Shadow):
            raise RuntimeError(f"{name}: 'lengths' must be a CPU tensor, not one of a device")
    if name in INDEXING and isinstance(args[0], Shadow):
        rest.pop(1)  # a CUDA tensor takes indices of the CPU
    operands = _tensors((rest, kwargs))
    assert all(isinstance(item, Shadow) or item.device != DEVICE for item in operands), (
        f"{name}: a tensor has no values"
    )
    strays = [item for item in operands if not isinstance(item, Shadow) and (item.ndim or name in JOINING)]
    if strays:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, shadow and cpu! "
            f"(in {name}, a CPU tensor of shape {tuple(strays[0].shape)})"
        )


class _Ranks:
    """torch.distributed for the first of two ranks under nccl, which takes no tensor of the CPU."""

    def is_initialized(self) -> bool:
        return True

    def get_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return 2

    def all_reduce(self, x: Tensor) -> None:
        """As if the other rank gave zeros."""
        self.broadcast(x)

    def broadcast(self, x: Tensor, src: int = 0) -> None:
        if not isinstance(x, Shadow):
            raise RuntimeError("No backend type associated with device type cpu")


@contextlib.contextmanager
def device(ranks: int = 1) -> Iterator[None]:
    """Within it the device "meta" computes; with two ranks this process is the first of them.

    Raises:
        RuntimeError: in the operation that mixes devices.
    """
    tensor = torch.tensor
    # The module, which torch.optim hides behind a class of nearly the same name.
    optimiser = sys.modules[torch.optim.Optimizer.__module__]
    fused = getattr(optimiser, FUSED)

    def made(data: Any, *args: Any, device: Any = None, **settings: Any) -> Tensor:
        return tensor(data, *args, **settings).to(device or "cpu")  # torch's own makes "meta" without its values

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "tensor", made))
        stack.enter_context(mock.patch.object(torch, "autocast", return_value=contextlib.nullcontext()))
        stack.enter_context(mock.patch.object(optimiser, FUSED, return_value=[*fused(), DEVICE.type]))
        if ranks > 1:
            stack.enter_context(mock.patch.object(parallel, "dist", _Ranks()))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # a Shadow has values to take
        stack.enter_context(_Mode())
        yield
