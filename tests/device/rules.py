"""What CUDA refuses and where it makes the host wait, per operator of torch's core (names without namespace).

From torch's own sources and documentation: native_functions.yaml (device checks of operators that do not go through
TensorIterator), the notes on synchronisation in torch.linalg, and what kernels of integers there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: their result, or its size, is seen on the host
WAITS = frozenset({
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "argwhere", "bincount",
    "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq",
})  # fmt: skip

#: take a number of the host (no dimensions) beside tensors of the device, as pointwise operators of two tensors do
HOST_NUMBERS = frozenset({"where", "masked_fill", "fill", "index_fill", "rsub"})
#: take indices of the host into tensors of the device, and copy them there
HOST_INDICES = frozenset({"index", "index_put", "_index_put_impl"})
#: there are no kernels of whole numbers
FLOATS_ONLY = frozenset({"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "convolution"})
#: nothing is computed
NO_KERNEL = frozenset({
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "alias", "set",
    "resize", "_reshape_alias", "_unsafe_view", "_local_scalar_dense", "record_stream", "is_same_size",
})  # fmt: skip


def named(op: torch._ops.OpOverload) -> str:
    """The name that the lists above have: in-place forms have that of the others."""
    return op._schema.name.partition("::")[2].rstrip("_")


def waits(op: torch._ops.OpOverload, args: Sequence[object]) -> bool:
    """Whether the host waits for the device in it."""
    name = named(op)
    if name in WAITS:
        return True
    if name in HOST_INDICES:  # a mask has as many places as it has ones
        return any(isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in args[1])  # type: ignore[attr-defined]
    return name == "repeat_interleave" and (len(args) < 2 or not isinstance(args[1], int))


def refused(op: torch._ops.OpOverload, args: Sequence[object], here: Sequence[Tensor], there: Sequence[Tensor]) -> str:
    """Why CUDA refuses an operator of tensors of the device (`here`) and of the host (`there`); empty: it does not."""
    name = named(op)
    if here and name in FLOATS_ONLY and not here[0].is_floating_point():
        return f'"{name}_cuda" not implemented for {str(here[0].dtype)!r}'
    if not here or not there or name in ("copy", "_to_copy"):
        return ""
    if name in HOST_INDICES:
        return _refused_indices(name, args, there)
    numbers = all(t.dim() == 0 for t in there)
    into_host = op._schema.is_mutable and any(args[0] is t for t in there)
    of_two = torch.Tag.pointwise in op.tags and len(here) + len(there) == 2 and name != "clamp"
    if numbers and not into_host and (of_two or name in HOST_NUMBERS):
        return ""
    return f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({op})"


def _refused_indices(name: str, args: Sequence[object], there: Sequence[Tensor]) -> str:
    """Indices of the host are taken. Values are not, but for one number; nor what would have to come to the host."""
    if any(args[0] is t for t in there):
        return "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
    values = args[2] if name != "index" else None
    if isinstance(values, Tensor) and values.dim() and any(values is t for t in there):
        return f"expected device cuda:0 but got device cpu for value tensor {list(values.shape)}"
    return ""
