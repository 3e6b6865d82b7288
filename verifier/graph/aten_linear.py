"""What further ATen operators become that are linear: einsum, running sums, masks, resizing, volumes, assignments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from verifier.graph.compositions.conditions import chosen_by
from verifier.graph.emitter import Var
from verifier.graph.layout import Laid
from verifier.graph.lifting import on_entries
from verifier.graph.linear_maps import contractions, letters, masked, pair_contraction, resized, running_sums
from verifier.graph.walker import Walker, constants_only, ints, name_of
from verifier.ops.concat import Concat
from verifier.ops.conv3d import Conv3d, ConvTranspose3d
from verifier.ops.elementwise import Multiply
from verifier.ops.handlers import Args, handles
from verifier.ops.shape import Reshape


@handles("cumsum")
def _cumsum(w: Walker, a: Args) -> Var:
    w.same_precision(a)
    (dim,) = w.dims(a["dim"], len(w.shape(a["self"])) + 1)
    return running_sums(w, a["self"], dim)


@handles("tril", "triu")
def _triangle(w: Walker, a: Args) -> Var:
    shape = w.shape(a["self"])
    if len(shape) < 2:
        raise w.mixes()
    cut = torch.tril if name_of(w.node.target) == "tril" else torch.triu
    return masked(w, a["self"], cut(torch.ones(shape), a["diagonal"]))


@handles("where")
def _where(w: Walker, a: Args) -> Any:
    condition = a["condition"]
    if isinstance(condition, Var):
        return chosen_by(w, condition, a["self"], a["other"])
    return chosen(w, condition, a["self"], a["other"])


@handles("masked_fill")
def _masked_fill(w: Walker, a: Args) -> Any:
    if isinstance(a["mask"], Var):
        return chosen_by(w, a["mask"], a["value"], a["self"])
    return chosen(w, a["mask"], a["value"], a["self"])


def chosen(w: Walker, condition: Tensor, x: Any, y: Any) -> Any:  # [*shape]
    """x where a constant condition holds, y elsewhere; infinite constants stay out of what is computed."""
    mask = condition.to(torch.bool)
    endless = torch.zeros_like(mask)

    def part(value: Any, own: Tensor) -> Any:  # [*shape]
        nonlocal endless
        if isinstance(value, Var):
            value, place = w.finite_part(value)
            endless = endless if place is None else endless | (own & place)
            return w.with_constant(Multiply, value, own.to(w.dtype))
        number = torch.as_tensor(value, dtype=w.dtype)
        endless = endless | (own & (number == -torch.inf))
        return torch.where(own & (number != -torch.inf), number, torch.zeros((), dtype=w.dtype))

    result = w.sum(part(x, mask), part(y, ~mask))
    return w.with_endless(result, w.mask(endless, len(w.shape(result)) + 1)) if bool(endless.any()) else result


# --- einsum ----------------------------------------------------------------------------------------------------------


@handles("einsum")
def _einsum(w: Walker, a: Args) -> Any:
    """Of one node and any constants; the batch's letter must be the same in the node and in the result."""
    sides, tensors = a["equation"].replace(" ", ""), list(a["tensors"])
    terms, result = letters(w, sides, [w.rank(t) if isinstance(t, Var | Laid) else t.dim() for t in tensors])
    places = [i for i, t in enumerate(tensors) if isinstance(t, Var | Laid)]
    if len(places) > 1:
        return _einsum_of_two(w, terms, result, tensors, places)
    (place,) = places
    value = tensors[place]
    constants = [(w.constant(t, 99), own) for t, own in zip(tensors, terms, strict=True) if t is not value]
    laid = w.laid(value)
    letter = terms[place][laid.layout.dim]
    shared = any(letter in other for _, other in constants) or terms[place].count(letter) > 1
    if w.batch > 1 and (shared or letter not in result):
        raise w.mixes()
    found = contractions(w, laid.var, terms[place], constants, result)  # type: ignore[arg-type]
    return w.settled(Laid(found, replace(laid.layout, dim=max(result.find(letter), 0))))


def _einsum_of_two(w: Walker, terms: Sequence[str], result: str, tensors: Sequence[Any], places: Sequence[int]) -> Any:
    """Of two nodes: dimensions in a common order, entrywise products, and a sum over what the result has not."""
    if len(tensors) != 2 or any(len(set(t)) < len(t) for t in terms):
        raise w.unsupported("a sum of products of more than two values, or along a diagonal of two")
    first, second = (w.laid(t) for t in tensors)
    names = {terms[0][first.layout.dim], terms[1][second.layout.dim]}
    if w.batch > 1 and (len(names) > 1 or first.layout != replace(second.layout, dim=first.layout.dim)):
        raise w.mixes()
    letter = terms[0][first.layout.dim]
    if letter not in result and w.batch > 1:
        raise w.mixes()
    found = pair_contraction(w, first.var, terms[0], second.var, terms[1], result)
    return w.settled(Laid(found, replace(first.layout, dim=max(result.find(letter), 0))))


# --- resizing --------------------------------------------------------------------------------------------------------


def _upsample(w: Walker, a: Args, mode: str, spatial: int) -> Var:
    x: Var = a["self"] if "self" in a else a["input"]
    shape = w.shape(x)
    if len(shape) != spatial + 1:
        raise w.mixes()
    corners = a.get("align_corners")
    factors = a.get("scale_factors") or [a.get(n) for n in ("scales_d", "scales_h", "scales_w")[3 - spatial :]]
    if spatial == 1 and a.get("scale_factors") is None:
        factors = [a.get("scales")]
    target = a.get("output_size")
    if target is None:
        target = [int(n * f) for n, f in zip(shape[1:], factors, strict=True)]

    def resize(t: Tensor, d: int) -> Tensor:  # [n, n_d] -> [n, m_d]
        if mode == "linear":
            function = torch.ops.aten.upsample_linear1d
            return function(t.unsqueeze(1), [target[d]], corners, factors[d]).squeeze(1)
        if mode == "cubic":
            wide = t.unsqueeze(1).unsqueeze(1)
            return torch.ops.aten.upsample_bicubic2d(wide, [1, target[d]], corners, None, factors[d]).flatten(1)
        function = torch.ops.aten.upsample_nearest1d if mode == "nearest" else torch.ops.aten._upsample_nearest_exact1d
        return function(t.unsqueeze(1), [target[d]], factors[d]).squeeze(1)

    return resized(w, x, 1, resize, own=True)


for _dims, _kind in ((1, "linear1d"), (2, "bilinear2d"), (3, "trilinear3d")):
    handles(f"upsample_{_kind}")(lambda w, a, n=_dims: _upsample(w, a, "linear", n))
    handles(f"_upsample_nearest_exact{_dims}d")(lambda w, a, n=_dims: _upsample(w, a, "exact", n))
handles("upsample_nearest3d")(lambda w, a: _upsample(w, a, "nearest", 3))
handles("upsample_bicubic2d")(lambda w, a: _upsample(w, a, "cubic", 2))


# --- volumes ---------------------------------------------------------------------------------------------------------


@handles("conv3d", "conv_transpose3d")
def convolution_3d(w: Walker, a: Args) -> Var:
    constants_only(w, a, "weight", "bias")
    x = a["input"]
    if len(w.shape(x)) != 4:
        raise w.mixes()
    names = ["stride", "padding", "dilation"]
    transposed = a.get("transposed", name_of(w.node.target) == "conv_transpose3d")
    settings: dict[str, Any] = {n: a[n] if isinstance(a[n], str) else ints(a[n], 3) for n in names}
    settings["groups"] = a["groups"]
    if transposed:
        settings["output_padding"] = ints(a["output_padding"], 3)
        return w.emit(ConvTranspose3d(a["weight"], a["bias"], **settings), x)
    return w.emit(Conv3d(a["weight"], a["bias"], **settings), x)


@handles("avg_pool3d", "adaptive_avg_pool3d", "_adaptive_avg_pool3d")
def _average_volumes(w: Walker, a: Args) -> Var:
    """Means over windows, dimension after dimension: a matrix along each."""
    if len(w.shape(a["self"])) != 4:
        raise w.mixes()
    if "output_size" in a:
        outputs = ints(a["output_size"], 3)
        return resized(w, a["self"], 1, lambda t, d: F.adaptive_avg_pool1d(t.unsqueeze(1), outputs[d]).squeeze(1))
    kernel, padding = ints(a["kernel_size"], 3), ints(a["padding"], 3)
    stride = ints(a["stride"], 3) if a["stride"] else kernel
    if a.get("divisor_override") or a["ceil_mode"] or (any(padding) and not a["count_include_pad"]):
        raise w.unsupported("an average over volumes with divisor_override, ceil_mode or count_include_pad=False")
    return resized(
        w, a["self"], 1, lambda t, d: F.avg_pool1d(t.unsqueeze(1), kernel[d], stride[d], padding[d]).squeeze(1)
    )


# --- assignments to parts --------------------------------------------------------------------------------------------

_TARGETS = ("self", "input")
_SOURCES = ("src", "values", "value", "source")


def assigned(w: Walker, a: Args) -> Any:
    """A copy of one tensor with entries of another at constant places, by running the operator on entry numbers."""
    target = next(n for n in _TARGETS if n in a)
    source = next(n for n in _SOURCES if n in a)
    if a.get("accumulate") or a.get("reduce") is not None:
        raise w.unsupported("it adds to the entries that it is given")
    if any(isinstance(a[n], Var | Laid) for n in a if n not in (target, source)):
        raise w.unsupported("the places depend on the input")
    into, what = a[target], a[source]
    if isinstance(into, Var | Laid) and not isinstance(what, Var | Laid):
        return _filled(w, a, target, source)
    if not isinstance(into, Var | Laid):
        like = w.laid(what)
        if into.dim() == 0 or len(into) != w.batch or not bool((into == into[:1]).all()):
            raise w.mixes()
        into = w.as_node(into[0], like.var, tuple(into.shape[1:]))
    parts = [w.laid(into), w.laid(what)]
    flat = [w.emit(Reshape((-1,)), p.var) for p in parts]
    sizes = [w.shape(v)[0] for v in flat]
    joined = w.emit(Concat(0), *flat)
    numbers = []
    for part, size, start in zip(parts, sizes, (0, sizes[0]), strict=True):
        own = w.numbers(w.settled(part)).long()
        numbers.append((own // size * sum(sizes) + own % size + start).double())
    moved = w.ran(*_call(w, {**a, target: numbers[0], source: numbers[1]}))
    return w.followed(joined, moved)


def _filled(w: Walker, a: Args, target: str, source: str) -> Any:
    """Constants assigned to entries: the others times one, and these plus the constants."""
    value, what = a[target], a[source]
    shape = w.traced_shape(value)
    number = torch.as_tensor(what, dtype=w.dtype)
    blank = torch.zeros_like(number).item() if not isinstance(what, Tensor) else torch.zeros_like(number)
    kept = w.ran(*_call(w, {**a, target: torch.ones(shape, dtype=w.dtype), source: blank}))
    put = what if not isinstance(what, Tensor) else number
    added = w.ran(*_call(w, {**a, target: torch.zeros(shape, dtype=w.dtype), source: put}))
    product = on_entries(w, "mul", {"self": value, "other": kept})
    return on_entries(w, "add", {"self": product, "other": added, "alpha": 1})


def _call(w: Walker, a: Args) -> tuple[Any, ...]:
    """The operator's arguments in the order of its schema."""
    return tuple(a[argument.name] for argument in w.node.target._schema.arguments if not argument.kwarg_only)  # type: ignore[union-attr]


@handles("copy")
def _copy(w: Walker, a: Args) -> Any:
    shape = w.traced_shape(a["self"]) if isinstance(a["self"], Var | Laid) else list(a["self"].shape)
    source = a["src"]
    if not isinstance(source, Var | Laid):
        return source.expand(shape)
    node = source if isinstance(source, Var) else source.var
    return w.followed(node, w.numbers(source).expand(shape))


for _name in (
    "slice_scatter",
    "select_scatter",
    "diagonal_scatter",
    "index_put",
    "scatter",
    "index_copy",
    "index_fill",
):
    handles(_name)(assigned)
