"""What each ATen operator becomes: one handler per operator, by name."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.errors import ModelError, UnsupportedError
from verifier.graph.compositions.functions import sigmoid
from verifier.graph.compositions.statistics import quotient
from verifier.graph.emitter import Var
from verifier.graph.linear_maps import along, contraction
from verifier.graph.walker import Walker, constants_only, depends, ints, name_of
from verifier.ops.absolute import Abs
from verifier.ops.clip import Clip
from verifier.ops.concat import Concat
from verifier.ops.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from verifier.ops.elementwise import Divide, Multiply
from verifier.ops.handlers import ATEN as HANDLERS
from verifier.ops.handlers import Args, handles
from verifier.ops.linear import Linear
from verifier.ops.norm import BatchNorm
from verifier.ops.pad import Pad, same_padding
from verifier.ops.pool import AdaptiveAveragePool, AveragePool, Reduce, adaptive_taps, pool_index, window_taps
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.ops.shape import Permute, Reshape
from verifier.ops.smooth import Tanh

# --- linear algebra --------------------------------------------------------------------------------------------------


@handles("linear")
def _linear(w: Walker, a: Args) -> Var:
    constants_only(w, a, "weight", "bias")
    _needs_rank(w, a["input"], 2)
    return w.emit(Linear(a["weight"], a["bias"]), a["input"])


@handles("matmul", "mm", "mv", "bmm", "dot")
def _matmul(w: Walker, a: Args) -> Var:
    x, y = (a[n] for n in list(a)[:2])
    if isinstance(x, Var) and isinstance(y, Var):
        if min(len(w.shape(x)), len(w.shape(y))) < 2:
            raise w.mixes()
        return w.matrix_product(x, y)
    if isinstance(x, Var):
        _needs_rank(w, x, 2)
        if y.dim() > 2:
            return _batched(w, x, y, False)
        if y.dim() == 1:
            column = w.emit(Linear(y.unsqueeze(0)), x)
            return w.emit(Reshape(w.shape(column)[:-1]), column)
        return w.emit(Linear(y.t()), x)
    shape = w.shape(y)
    if len(shape) < 2:
        raise w.mixes()
    if x.dim() == 1:  # a row: y summed over its last dimension but one
        return w.emit(Reshape((*shape[:-2], shape[-1])), along(w, y, len(shape) - 2, x.unsqueeze(0)))
    if x.dim() > 2:
        return _batched(w, y, x, True)
    order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return w.emit(Permute(order), w.emit(Linear(x), w.emit(Permute(order), y)))


def _batched(w: Walker, x: Var, y: Tensor, left: bool) -> Var:
    """The product with matrices y [..., k, n] (left: [..., m, k]), whose leading dimensions broadcast."""
    y = w.constant(y, len(w.shape(x)) + 1)  # type: ignore[assignment]
    rank = max(len(w.shape(x)), y.dim())
    names = string.ascii_lowercase[: rank - 2]
    shape = (*(1,) * (rank - len(w.shape(x))), *w.shape(x))
    lead = tuple(np.broadcast_shapes(shape[:-2], y.shape[:-2]))
    x = w.expanded(x, (*lead, *shape[-2:]))
    y = y.reshape((1,) * (rank - y.dim()) + tuple(y.shape)).expand(*lead, *y.shape[-2:])
    letters = ("yz", "xy", "xz") if left else ("xy", "yz", "xz")
    own, other, result = (names + pair for pair in letters)
    return contraction(w, x, own, y, other, result)


@handles("addmm")
def _addmm(w: Walker, a: Args) -> Var:
    if not isinstance(a["mat1"], Var):
        if depends((a["mat2"],)):
            raise w.mixes()
        return w.sum(w.scaled(a["self"], a["beta"]), a["mat1"] @ a["mat2"] * a["alpha"])
    constants_only(w, a, "mat2")
    own = a["self"]
    plain = a["alpha"] == 1 and a["beta"] == 1 and isinstance(own, Tensor)
    if plain and own.dim() == 1 and len(own) == a["mat2"].shape[1]:
        return w.emit(Linear(a["mat2"].t(), own), a["mat1"])
    product = w.scaled(w.emit(Linear(a["mat2"].t()), a["mat1"]), a["alpha"])
    return w.sum(product, w.scaled(own, a["beta"]))


def _needs_rank(w: Walker, var: Any, least: int, exact: int | None = None) -> None:
    """The operand has at least `least` (or exactly `exact`) dimensions with the batch."""
    if not isinstance(var, Var):
        raise w.unsupported("its input is constant and its weights depend on the model's input")
    rank = len(w.shape(var)) + 1
    if rank < least or (exact is not None and rank != exact):
        raise w.mixes()


def _convolution(w: Walker, a: Args, spatial: int) -> Var:
    constants_only(w, a, "weight", "bias")
    x = a["input"]
    _needs_rank(w, x, spatial + 2, spatial + 2)
    stride, dilation = ints(a["stride"], spatial), ints(a["dilation"], spatial)
    padding = a["padding"]
    if padding == "valid":
        padding = 0
    elif padding == "same":
        sides = same_padding(a["weight"].shape[2:], dilation)
        if any(before != after for before, after in sides):
            x = w.emit(Pad([n for side in reversed(sides) for n in side]), x)
            padding = 0
        else:
            padding = [before for before, _ in sides]
    kind = Conv1d if spatial == 1 else Conv2d
    return w.emit(kind(a["weight"], a["bias"], stride, ints(padding, spatial), dilation, a["groups"]), x)


def _transposed(w: Walker, a: Args, spatial: int) -> Var:
    constants_only(w, a, "weight", "bias")
    _needs_rank(w, a["input"], spatial + 2, spatial + 2)
    stride, padding, beyond, dilation = (
        ints(a[n], spatial) for n in ("stride", "padding", "output_padding", "dilation")
    )
    kind = ConvTranspose1d if spatial == 1 else ConvTranspose2d
    return w.emit(kind(a["weight"], a["bias"], stride, padding, beyond, dilation, a["groups"]), a["input"])


handles("conv1d")(lambda w, a: _convolution(w, a, 1))
handles("conv2d")(lambda w, a: _convolution(w, a, 2))
handles("conv_transpose1d")(lambda w, a: _transposed(w, a, 1))
handles("conv_transpose2d")(lambda w, a: _transposed(w, a, 2))


@handles("convolution")
def _any_convolution(w: Walker, a: Args) -> Var:
    constants_only(w, a, "weight", "bias")
    spatial = a["weight"].dim() - 2
    if spatial == 3:
        return HANDLERS["conv3d"](w, a)
    return _transposed(w, a, spatial) if a["transposed"] else _convolution(w, a, spatial)


@handles(
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "native_batch_norm",
    "_native_batch_norm_legit_functional",
)
def _batch_norm(w: Walker, a: Args) -> Any:
    if a.get("training"):
        raise w.training()
    if a.get("running_mean") is None or a.get("running_var") is None:
        raise w.unsupported("batch normalisation without running statistics mixes the batch, also at inference")
    constants_only(w, a, "weight", "bias")
    _needs_rank(w, a["input"], 2)
    op = BatchNorm(a["weight"], a["bias"], a["running_mean"], a["running_var"], a["eps"])
    var = w.emit(op, a["input"])
    return var if name_of(w.node.target) == "batch_norm" else (var, None, None)


@handles("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def _dropout(w: Walker, a: Args) -> Any:
    if a["train"] and a["p"] > 0:
        raise w.training()
    return (a["input"], None) if name_of(w.node.target) == "native_dropout" else a["input"]


@handles("sym_size")
def _size(w: Walker, a: Args) -> int:
    return w.traced_shape(a["self"])[a["dim"]]


# --- arithmetic ------------------------------------------------------------------------------------------------------


@handles("add")
def _add(w: Walker, a: Args) -> Var:
    return w.sum(a["self"], w.scaled(a["other"], a.get("alpha", 1)))


@handles("sub", "subtract")
def _sub(w: Walker, a: Args) -> Var:
    return w.difference(a["self"], w.scaled(a["other"], a.get("alpha", 1)))


@handles("rsub")
def _rsub(w: Walker, a: Args) -> Var:
    return w.difference(a["other"], w.scaled(a["self"], a.get("alpha", 1)))


@handles("neg", "negative")
def _neg(w: Walker, a: Args) -> Var:
    return w.emit(Multiply(-1.0), a["self"])


@handles("mul", "multiply")
def _mul(w: Walker, a: Args) -> Var:
    return w.product(a["self"], a["other"])


@handles("div", "divide", "true_divide")
def _div(w: Walker, a: Args) -> Var:
    x, y = a["self"], a["other"]
    if a.get("rounding_mode") is not None:
        raise w.unsupported("division that rounds is not continuous")
    if isinstance(y, Var):
        return quotient(w, x, y)
    if bool(torch.as_tensor(y == 0).any()):
        raise ModelError(str(w.unsupported("it divides by zero")))
    return w.with_constant(Divide, x, y)


@handles("sum", "mean")
def _reduce(w: Walker, a: Args) -> Var:
    w.same_precision(a)
    dims = w.dims(a.get("dim"), len(w.shape(a["self"])) + 1)
    return w.emit(Reduce(dims, a["keepdim"], name_of(w.node.target) == "mean"), a["self"])


@handles("maximum")
def _maximum(w: Walker, a: Args) -> Var:
    return w.larger(a["self"], a["other"])


@handles("minimum")
def _minimum(w: Walker, a: Args) -> Var:
    return w.smaller(a["self"], a["other"])


@handles("max", "amax", "min", "amin")
def _extremum(w: Walker, a: Args) -> Any:
    """Over dimensions by the tree of a max pool; the minimum as minus the maximum of the negative."""
    name = name_of(w.node.target)
    largest = name in ("max", "amax")
    if "other" in a:
        return (_maximum if largest else _minimum)(w, a)
    x = a["self"]
    shape = w.shape(x)
    dims = w.dims(a.get("dim"), len(shape) + 1)
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    kept = [1 if d in dims else n for d, n in enumerate(shape)]
    rest = [d for d in range(len(shape)) if d not in dims]
    index = numbers.permute(*dims, *rest).reshape(-1, *(shape[d] for d in rest))
    result = w.maximum(x if largest else w.scaled(x, -1.0), index)
    if a["keepdim"]:
        result = w.emit(Reshape(kept), result)
    if not largest:
        result = w.scaled(result, -1.0)
    return result if name.startswith("a") else (result, None)


# --- joining and padding ---------------------------------------------------------------------------------------------


@handles("cat", "concat", "concatenate")
def _cat(w: Walker, a: Args) -> Var:
    like = next(t for t in a["tensors"] if isinstance(t, Var))
    shape = w.shape(like)
    (dim,) = w.dims(a["dim"], len(shape) + 1)
    parts = []
    for part in a["tensors"]:
        if not isinstance(part, Var):
            if part.dim() != len(shape) + 1 or len(part) != w.batch:
                raise w.mixes()
            if part.numel() == 0:
                continue
            part = w.as_node(part, like, tuple(part.shape[1:]))
        parts.append(part)
    return w.emit(Concat(dim), *parts) if len(parts) > 1 else parts[0]


@handles("stack")
def _stack(w: Walker, a: Args) -> Var:
    like = next(t for t in a["tensors"] if isinstance(t, Var))
    shape = w.shape(like)
    (dim,) = w.dims(a["dim"], len(shape) + 2)
    wide = (*shape[:dim], 1, *shape[dim:])
    parts = [t if isinstance(t, Var) else w.as_node(t, like, shape) for t in a["tensors"]]
    return w.emit(Concat(dim), *(w.emit(Reshape(wide), p) for p in parts))


@handles("constant_pad_nd", "pad")
def _pad(w: Walker, a: Args) -> Any:
    mode = a.get("mode", "constant")
    if mode != "constant":
        return w.followed(a["self"], F.pad(w.numbers(a["self"]), a["pad"], mode=mode))
    if len(a["pad"]) > 2 * len(w.shape(a["self"])):
        raise w.mixes()
    value = a["value"] or 0.0
    if not abs(value) < float("inf"):
        raise w.unsupported(f"padding with {value}")
    return w.emit(Pad(a["pad"], value), a["self"])


# --- pooling ---------------------------------------------------------------------------------------------------------


def _average(w: Walker, a: Args, spatial: int) -> Var:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    kernel = ints(a["kernel_size"], spatial)
    stride = ints(a["stride"], spatial) if a["stride"] else kernel
    settings = (a["ceil_mode"], a["count_include_pad"], a.get("divisor_override"))
    return w.emit(AveragePool(kernel, stride, ints(a["padding"], spatial), *settings), a["self"])


def _adaptive_average(w: Walker, a: Args, spatial: int) -> Var:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    sizes, outputs = w.shape(a["self"])[1:], ints(a["output_size"], spatial)
    if any(n % m for n, m in zip(sizes, outputs, strict=True)):
        return w.emit(AdaptiveAveragePool(outputs), a["self"])
    return w.emit(AveragePool(tuple(n // m for n, m in zip(sizes, outputs, strict=True))), a["self"])


def _maximum_pool(w: Walker, a: Args, spatial: int) -> Any:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    shape = w.shape(a["self"])
    kernel = ints(a["kernel_size"], spatial)
    stride = ints(a["stride"], spatial) if a["stride"] else kernel
    padding, dilation = ints(a["padding"], spatial), ints(a["dilation"], spatial)
    settings = zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    try:
        axes = [window_taps(*s, ceil_mode=a["ceil_mode"]) for s in settings]
    except UnsupportedError as error:
        raise w.unsupported(str(error)) from error
    result = w.maximum(a["self"], pool_index(shape, axes))
    return (result, None) if name_of(w.node.target).endswith("indices") else result


def _adaptive_maximum(w: Walker, a: Args, spatial: int) -> Any:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    shape = w.shape(a["self"])
    outputs = ints(a["output_size"], spatial)
    axes = [adaptive_taps(n, m) for n, m in zip(shape[1:], outputs, strict=True)]
    return w.maximum(a["self"], pool_index(shape, axes)), None


handles("avg_pool1d")(lambda w, a: _average(w, a, 1))
handles("avg_pool2d")(lambda w, a: _average(w, a, 2))
handles("adaptive_avg_pool1d")(lambda w, a: _adaptive_average(w, a, 1))
handles("adaptive_avg_pool2d", "_adaptive_avg_pool2d")(lambda w, a: _adaptive_average(w, a, 2))
handles("max_pool1d", "max_pool1d_with_indices")(lambda w, a: _maximum_pool(w, a, 1))
handles("max_pool2d", "max_pool2d_with_indices")(lambda w, a: _maximum_pool(w, a, 2))
handles("adaptive_max_pool1d")(lambda w, a: _adaptive_maximum(w, a, 1))
handles("adaptive_max_pool2d")(lambda w, a: _adaptive_maximum(w, a, 2))


# --- activations -----------------------------------------------------------------------------------------------------


handles("relu")(lambda w, a: w.emit(ReLU(), a["self"]))
handles("leaky_relu")(lambda w, a: w.emit(LeakyReLU(a["negative_slope"]), a["self"]))
handles("abs", "absolute")(lambda w, a: w.emit(Abs(), a["self"]))
handles("sigmoid")(lambda w, a: sigmoid(w, a["self"]))
handles("tanh")(lambda w, a: w.emit(Tanh(), a["self"]))


@handles("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max", "clip")
def _clip(w: Walker, a: Args) -> Var:
    name = name_of(w.node.target)
    low: float | None = 0.0
    high: float | None = 6.0
    if name != "relu6":
        low, high = (_limit(w, a.get(f"{side}_val", a.get(side))) for side in ("min", "max"))
    if low is None and high is None:
        return a["self"]
    if low is not None and high is not None and low > high:
        raise w.unsupported(f"its limits {low} and {high} are in the wrong order")
    return w.emit(ReLU() if (low, high) == (0.0, None) else Clip(low, high), a["self"])


def _limit(w: Walker, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
        value = value.item()
    if isinstance(value, Tensor | Var):
        raise w.unsupported("its limits must be numbers")
    if value != value:
        raise w.unsupported("a limit is NaN")
    return None if abs(value) == float("inf") else float(value)
