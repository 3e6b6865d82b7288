"""ONNX operators that move entries about: shapes, slices, joins, padding, upsampling by copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.linear_maps import along
from verifier.graph.onnx_layers import around
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand
from verifier.ops.concat import Concat
from verifier.ops.handlers import onnx_operator
from verifier.ops.pad import Pad

# fmt: off
#: of these, constants are moved by the same code as entry numbers
MOVES = frozenset((
    "Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))
# fmt: on

# --- the same entries in the same order ------------------------------------------------------------------------------


@onnx_operator("Identity")
def _identity(w: OnnxWalker, x: Operand) -> Operand:
    return x


@onnx_operator("Dropout")
def _dropout(w: OnnxWalker, x: Operand, ratio: Operand = None, training: Operand = None) -> Operand:
    if isinstance(training, OnnxValue) or (training is not None and bool(training.any())):
        raise ModelError(f"{w.unsupported('it behaves as in training')} Export the model in eval mode.")
    return x


def _reshaped(w: OnnxWalker, x: Operand, shape: Sequence[int]) -> OnnxValue | Tensor:  # [...] -> [*shape]
    if isinstance(x, OnnxValue):
        if math.prod(shape) != math.prod(x.shape) or min(shape, default=1) < 0:
            raise ModelError(str(w.unsupported(f"shape {list(x.shape)} cannot become {list(shape)}")))
        return w.value(x.var, shape)
    return w.tensor(x, "input").reshape(tuple(shape))


@onnx_operator("Reshape")
def _reshape(w: OnnxWalker, x: Operand, shape: Operand) -> OnnxValue | Tensor:  # [...] -> [*shape]
    assert x is not None
    wanted = w.integers(shape, "shape")
    if not w.attribute("allowzero", 0):
        if any(n == 0 and i >= len(x.shape) for i, n in enumerate(wanted)):
            raise ModelError(str(w.unsupported(f"shape {wanted} copies dimensions that {list(x.shape)} has not")))
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    if wanted.count(-1) > 1 or min(wanted, default=1) < -1:
        raise ModelError(str(w.unsupported(f"shape {wanted}")))
    if -1 in wanted:
        known = math.prod(n for n in wanted if n != -1)
        total = math.prod(x.shape)
        if known == 0 or total % known:
            raise ModelError(str(w.unsupported(f"shape {list(x.shape)} cannot become {wanted}")))
        wanted[wanted.index(-1)] = total // known
    return _reshaped(w, x, wanted)


@onnx_operator("Flatten")
def _flatten(w: OnnxWalker, x: Operand) -> OnnxValue | Tensor:  # [...] -> [m, n]
    assert x is not None
    rank = len(x.shape)
    axis = w.attribute("axis", 1)
    if not -rank <= axis <= rank:
        raise ModelError(str(w.unsupported(f"it names axis {axis} of {rank} dimensions")))
    axis = axis + rank if axis < 0 else axis
    return _reshaped(w, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _given(w: OnnxWalker, name: str, operand: Operand, since: int) -> list[int] | None:
    """Integers that are an attribute before opset `since`, and an input from there on."""
    if w.opset < since:
        found = w.attribute(name)
        return None if found is None else list(found)
    return None if operand is None else w.integers(operand, name)


@onnx_operator("Squeeze")
def _squeeze(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue | Tensor:  # [...] -> [*shape without ones]
    assert x is not None
    named = _given(w, "axes", axes, 13)
    rank = len(x.shape)
    gone = [a for a in range(rank) if x.shape[a] == 1] if named is None else w.axes(named, rank)
    if any(x.shape[a] != 1 for a in gone):
        raise ModelError(str(w.unsupported(f"axes {gone} of shape {list(x.shape)} are not all of size 1")))
    return _reshaped(w, x, [n for a, n in enumerate(x.shape) if a not in gone])


@onnx_operator("Unsqueeze")
def _unsqueeze(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue | Tensor:  # [...] -> [*shape with ones]
    assert x is not None
    named = _given(w, "axes", axes, 13)
    if named is None:
        raise ModelError(str(w.unsupported("its axes are missing")))
    rank = len(x.shape) + len(named)
    new = w.axes(named, rank)
    sizes = iter(x.shape)
    return _reshaped(w, x, [1 if a in new else next(sizes) for a in range(rank)])


@onnx_operator("Transpose")
def _transpose(w: OnnxWalker, x: Operand) -> Any:
    assert x is not None
    rank = len(x.shape)
    order = w.attribute("perm")
    order = list(reversed(range(rank))) if order is None else list(order)
    if sorted(order) != list(range(rank)):
        raise ModelError(str(w.unsupported(f"perm {order} does not fit {rank} dimensions")))
    return w.transposed(x, order)


# --- some entries, or copies of them ---------------------------------------------------------------------------------


@onnx_operator("Expand")
def _expand(w: OnnxWalker, x: Operand, shape: Operand) -> Any:
    assert x is not None
    wanted = w.integers(shape, "shape")
    if min(wanted, default=1) < 0:
        raise ModelError(str(w.unsupported(f"shape {wanted}")))
    full = w.check_size(np.broadcast_shapes(tuple(x.shape), tuple(wanted)), isinstance(x, Tensor))
    return w.moved(x, lambda t: t.expand(full))


@onnx_operator("Tile")
def _tile(w: OnnxWalker, x: Operand, repeats: Operand) -> Any:
    assert x is not None
    times = w.integers(repeats, "repeats")
    if len(times) != len(x.shape) or min(times, default=1) < 1:
        raise ModelError(str(w.unsupported(f"repeats {times} do not fit shape {list(x.shape)}")))
    w.check_size([n * k for n, k in zip(x.shape, times, strict=True)], isinstance(x, Tensor))
    return w.moved(x, lambda t: t.repeat(times))


@onnx_operator("Gather")
def _gather(w: OnnxWalker, x: Operand, indices: Operand) -> Any:
    assert x is not None
    axis = w.axis(w.attribute("axis", 0), len(x.shape))
    index = w.tensor(indices, "indices").to(torch.int64)
    size = x.shape[axis]
    if bool(((index < -size) | (index >= size)).any()):
        raise ModelError(str(w.unsupported(f"an index lies outside of axis {axis} with {size} entries")))
    flat = torch.where(index < 0, index + size, index).flatten()
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    w.check_size(shape, isinstance(x, Tensor))
    return w.moved(x, lambda t: t.index_select(axis, flat.to(t.device)).reshape(shape))


@onnx_operator("Slice")
def _slice(
    w: OnnxWalker,
    x: Operand,
    starts: Operand = None,
    ends: Operand = None,
    axes: Operand = None,
    steps: Operand = None,
) -> Any:
    assert x is not None
    first, last = _given(w, "starts", starts, 10), _given(w, "ends", ends, 10)
    if first is None or last is None:
        raise ModelError(str(w.unsupported("its starts or ends are missing")))
    named = _given(w, "axes", axes, 10)
    along = w.axes(range(len(first)) if named is None else named, len(x.shape))
    by = [1] * len(first) if w.opset < 10 or steps is None else w.integers(steps, "steps")
    if not len(first) == len(last) == len(along) == len(by) or 0 in by:
        raise ModelError(str(w.unsupported(f"starts {first}, ends {last}, axes {along}, steps {by}")))
    kept = [torch.arange(n)[slice(None)] for n in x.shape]
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        # Python's slices clamp as ONNX does, but for a negative step's end at or before -n - 1, which is "to the start"
        size = x.shape[axis]
        end = None if step < 0 and end < -size else end  # type: ignore[assignment]
        kept[axis] = torch.tensor(range(size)[slice(start, end, step)], dtype=torch.int64)
    return w.moved(x, lambda t: _selected(t, kept))


def _selected(t: Tensor, kept: Sequence[Tensor]) -> Tensor:  # [*shape], [n] int64 each -> [*selected]
    """The entries at these positions of each axis."""
    for axis, index in enumerate(kept):
        if len(index) != t.shape[axis] or not torch.equal(index, torch.arange(len(index))):
            t = t.index_select(axis, index.to(t.device))
    return t


@onnx_operator("Split")
def _split(w: OnnxWalker, x: Operand, split: Operand = None) -> Any:
    assert x is not None and w.node is not None
    axis = w.axis(w.attribute("axis", 0), len(x.shape))
    size, count = x.shape[axis], len(w.node.output)
    sizes = _given(w, "split", split, 13)
    if sizes is None:
        if w.attribute("num_outputs", count) != count or (w.opset < 18 and size % count):
            raise ModelError(str(w.unsupported(f"{size} entries into {count} outputs")))
        each = -(-size // count)
        sizes = [each] * (count - 1) + [size - each * (count - 1)]
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 0:
        raise ModelError(str(w.unsupported(f"axis {axis} of {size} entries into {sizes}")))
    return w.moved(x, lambda t: list(t.split(sizes, axis)))


@onnx_operator("DepthToSpace")
def _depth_to_space(w: OnnxWalker, x: Operand) -> Any:
    assert x is not None
    block, mode = w.attribute("blocksize", 0), w.attribute("mode", "DCR")
    if len(x.shape) != 4 or block < 1 or x.shape[1] % block**2 or mode not in ("DCR", "CRD"):
        raise ModelError(str(w.unsupported(f"blocks of {block} in mode {mode!r} on shape {list(x.shape)}")))
    n, c, h, width = x.shape
    deep = c // block**2

    def move(t: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C / b^2, b H, b W]
        if mode == "DCR":
            t = t.reshape(n, block, block, deep, h, width).permute(0, 3, 4, 1, 5, 2)
        else:
            t = t.reshape(n, deep, block, block, h, width).permute(0, 1, 4, 2, 5, 3)
        return t.reshape(n, deep, h * block, width * block)

    return w.moved(x, move)


@onnx_operator("SpaceToDepth")
def _space_to_depth(w: OnnxWalker, x: Operand) -> Any:
    assert x is not None
    block = w.attribute("blocksize", 0)
    if len(x.shape) != 4 or block < 1 or x.shape[2] % block or x.shape[3] % block:
        raise ModelError(str(w.unsupported(f"blocks of {block} on shape {list(x.shape)}")))
    n, c, h, width = x.shape

    def move(t: Tensor) -> Tensor:  # [N, C, H, W] -> [N, b^2 C, H / b, W / b]
        t = t.reshape(n, c, h // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
        return t.reshape(n, c * block**2, h // block, width // block)

    return w.moved(x, move)


# --- joining and padding ---------------------------------------------------------------------------------------------


@onnx_operator("Concat")
def _concat(w: OnnxWalker, *parts: Operand) -> OnnxValue:
    values = [p for p in parts if isinstance(p, OnnxValue)]
    rank = len(values[0].shape)
    axis = w.axis(w.attribute("axis", 0), rank)
    shapes = [tuple(p.shape) for p in parts if p is not None]
    rest = {s[:axis] + s[axis + 1 :] for s in shapes}
    if len(shapes) != len(parts) or len(rest) > 1 or any(len(s) != rank for s in shapes):
        raise ModelError(str(w.unsupported(f"shapes {[list(s) for s in shapes]} along axis {axis}")))
    lead = rank > 1 and axis > 0 and shapes[0][0] == 1
    nodes = []
    for part, shape in zip(parts, shapes, strict=True):
        own = shape[lead:]
        if isinstance(part, OnnxValue):
            nodes.append(w.reshaped(part.var, own))
        elif math.prod(shape):  # constants without entries add nothing
            constant = w.weights(part, "part").reshape(own)
            nodes.append(w.as_node(constant, values[0].var, own))
    joined = (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])
    w.check_size(joined)
    return w.value(nodes[0] if len(nodes) == 1 else w.emit(Concat(axis - lead), *nodes), joined)


@onnx_operator("Pad")
def _pad(w: OnnxWalker, x: Operand, pads: Operand = None, value: Operand = None, axes: Operand = None) -> Any:
    x = w.dependent(x)
    rank = len(x.shape)
    amounts = _given(w, "pads", pads, 11)
    along = w.axes(w.integers(axes, "axes"), rank) if axes is not None else list(range(rank))
    if amounts is None or len(amounts) != 2 * len(along):
        raise ModelError(str(w.unsupported(f"pads {amounts} for axes {along}")))
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(along):
        before[axis], after[axis] = amounts[i], amounts[i + len(along)]
    sizes = w.check_size([n + b + a for n, b, a in zip(x.shape, before, after, strict=True)])
    if min(sizes) < 1 or any(b < -n or a < -n for n, b, a in zip(x.shape, before, after, strict=True)):
        raise ModelError(str(w.unsupported(f"pads {amounts} leave nothing of shape {list(x.shape)}")))
    mode = w.attribute("mode", "constant")
    if mode != "constant":
        kept = [_padded_axis(w, mode, *one) for one in zip(x.shape, before, after, strict=True)]
        return w.moved(x, lambda t: _selected(t, kept))
    filler = _filler(w, value)
    lead = rank > 1 and x.shape[0] == 1 and before[0] == after[0] == 0
    var = w.reshaped(x.var, x.shape[lead:])
    return w.value(w.emit(Pad(around(before[lead:], after[lead:]), filler), var), sizes)


def _filler(w: OnnxWalker, value: Operand) -> float:
    given = 0.0 if value is None else float(w.weights(value, "value"))
    number = w.attribute("value", 0.0) if w.opset < 11 else given
    if not abs(number) < math.inf:
        raise w.unsupported(f"padding with {number}")
    return number


def _padded_axis(w: OnnxWalker, mode: str, size: int, before: int, after: int) -> Tensor:
    """Which entry each position of a padded axis shows, [before + size + after] int64."""
    positions = torch.arange(-before, size + after)
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode != "reflect":
        raise w.unsupported(f"padding in mode {mode!r}")
    if max(before, after) >= size and (before > 0 or after > 0):
        raise w.unsupported(f"it reflects {max(before, after)} entries of {size}")
    folded = positions.abs()
    return torch.where(folded >= size, 2 * (size - 1) - folded, folded)


# --- upsampling by copies --------------------------------------------------------------------------------------------


@onnx_operator("Upsample")
def _upsample(w: OnnxWalker, x: Operand, scales: Operand = None) -> Any:
    factors = w.attribute("scales") if w.opset < 9 else _numbers(w, scales)
    return _nearest(w, x, factors, None, "asymmetric", "simple", None)


@onnx_operator("Resize")
def _resize(w: OnnxWalker, x: Operand, *rest: Operand) -> Any:
    if w.opset < 11:
        return _nearest(w, x, _numbers(w, rest[0] if rest else None), None, "asymmetric", "simple", None)
    _, scales, sizes = (*rest, None, None, None)[:3]
    if w.attribute("antialias", 0) or w.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise w.unsupported("resizing with antialias or keep_aspect_ratio_policy")
    lengths = None if sizes is None or not math.prod(sizes.shape) else w.integers(sizes, "sizes")
    factors = None if lengths is not None else _numbers(w, scales)
    how = w.attribute("coordinate_transformation_mode", "half_pixel")
    return _nearest(w, x, factors, lengths, how, w.attribute("nearest_mode", "round_prefer_floor"), w.attribute("axes"))


def _numbers(w: OnnxWalker, value: Operand) -> list[float]:
    tensor = w.tensor(value, "scales")
    if tensor.dtype != torch.float32 or tensor.numel() > 16:
        raise ModelError(str(w.unsupported("its scales must be float32, one per axis")))
    return [float(v) for v in tensor.flatten()]


def _nearest(
    w: OnnxWalker,
    x: Operand,
    scales: list[float] | None,
    sizes: list[int] | None,
    how: str,
    rounding: str,
    axes: list[int] | None,
) -> Any:
    """Each entry of the result is the entry of x nearest to where it comes from."""
    x = w.dependent(x)
    mode = w.attribute("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise w.unsupported(f"resizing in mode {mode!r}")
    rank = len(x.shape)
    along = list(range(rank)) if axes is None else w.axes(axes, rank)
    given: Sequence[float] = sizes if sizes is not None else scales or ()
    if len(given) != len(along) or not all(0 < g < 1e9 for g in given):
        raise ModelError(str(w.unsupported(f"scales or sizes {list(given)} do not fit shape {list(x.shape)}")))
    lengths, factors = list(x.shape), [1.0] * rank
    for axis, number in zip(along, given, strict=True):
        lengths[axis] = int(number) if sizes is not None else math.floor(number * x.shape[axis])
        factors[axis] = number / x.shape[axis] if sizes is not None else number
    w.check_size(lengths)
    if min(lengths) < 1:
        raise ModelError(str(w.unsupported(f"its result has shape {lengths}")))
    if tuple(lengths) == tuple(x.shape):
        return x  # onnxruntime copies, whatever the scales are
    if mode != "nearest":
        return _blended(w, x, lengths, factors, how, mode)
    kept = [_sources(w, *one, how, rounding) for one in zip(x.shape, lengths, factors, strict=True)]
    return w.moved(x, lambda t: _selected(t, kept))


def _blended(w: OnnxWalker, x: OnnxValue, lengths: Sequence[int], factors: Sequence[float], how: str, mode: str) -> Any:
    """Each entry of the result is a mean of the nearest two (linear) or four (cubic) along each axis."""
    if w.attribute("exclude_outside", 0):
        raise w.unsupported("resizing with exclude_outside")
    var = w.in_full(x)
    for axis, (size, length, scale) in enumerate(zip(x.shape, lengths, factors, strict=True)):
        if size == length and scale == 1:
            continue
        matrix, exact = (
            _blend(w, mode, _places(w, size, length, scale, how, dtype), size)
            for dtype in (torch.float32, torch.float64)
        )
        if not torch.equal(matrix.double(), exact):
            w.rounds("the weights of a resizing, which are no binary fractions")
        var = along(w, var, axis, matrix.to(w.dtype))
    return w.value(var, lengths)


def _blend(w: OnnxWalker, mode: str, place: Tensor, size: int) -> Tensor:  # [length] -> [length, size]
    """The weights with which each entry of the resized axis reads the axis, in the precision of its `place` there."""
    matrix, rows = place.new_zeros(len(place), size), torch.arange(len(place))
    if mode == "linear":
        place = place.clamp(0, size - 1)
    start = place.floor()
    for offset, weight in _taps(mode, place - start, w.attribute("cubic_coeff_a", -0.75)):
        column = (start.long() + offset).clamp(0, size - 1)
        matrix.index_put_((rows, column), weight, accumulate=True)
    return matrix


def _taps(mode: str, share: Tensor, a: float) -> list[tuple[int, Tensor]]:  # [length] each
    """Offsets from the entry before, and the weights of the entries there (Keys 1981 for cubic)."""
    if mode == "linear":
        return [(0, 1 - share), (1, share)]

    def near(t: Tensor) -> Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [(-1, far(share + 1)), (0, near(share)), (1, near(1 - share)), (2, far(2 - share))]


def _places(
    w: OnnxWalker, size: int, length: int, scale: float, how: str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Where on an axis each entry of the resized axis comes from, [length]; onnxruntime has it in float32."""
    place = torch.arange(length, dtype=dtype)
    factor = torch.tensor(scale, dtype=dtype)
    if how == "asymmetric":
        place = place / factor
    elif how == "half_pixel" or (how == "pytorch_half_pixel" and length > 1):
        place = (place + 0.5) / factor - 0.5
    elif how == "pytorch_half_pixel":
        place = place.new_zeros(1)
    elif how == "align_corners":
        place = place * (size - 1) / (length - 1) if length > 1 else place.new_zeros(1)
    elif how == "tf_half_pixel_for_nn":
        place = (place + 0.5) / factor
    else:
        raise w.unsupported(f"resizing in coordinate_transformation_mode {how!r}")
    return place


def _sources(w: OnnxWalker, size: int, length: int, scale: float, how: str, rounding: str) -> Tensor:
    """Which entry of an axis each entry of the resized axis copies, [length] int64."""
    if size == length and scale == 1:
        return torch.arange(size)
    place = _places(w, size, length, scale, how)
    if rounding == "simple":  # of operator set 10, as onnxruntime has it
        rounding = "ceil" if scale < 1 else "floor"
    if rounding == "floor":
        nearest = place.floor()
    elif rounding == "ceil":
        nearest = place.ceil()
    elif rounding == "round_prefer_floor":
        nearest = (place - 0.5).ceil()
    elif rounding == "round_prefer_ceil":
        nearest = (place + 0.5).floor()
    else:
        raise w.unsupported(f"resizing in nearest_mode {rounding!r}")
    return nearest.long().clamp(0, size - 1)
