"""Operators on values whose batch is not in front (verifier.graph.layout).

The node of such a value has the shape that the value has with a batch of one. An operator's handler reads it like any
node, one dimension more than the operator itself saw: dimensions that its arguments name from the front are counted one
further. What may not touch the dimension of the batch is checked here, operator by operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from verifier.graph.emitter import Var
from verifier.graph.layout import Laid, Layout, of_one_example
from verifier.graph.placing import Placing
from verifier.ops.concat import Concat
from verifier.ops.handlers import ATEN as HANDLERS
from verifier.ops.handlers import Args

Value = Var | Laid

# fmt: off
#: operators on every entry by itself that do not carry torch's own mark of it
_ENTRYWISE = frozenset((
    "__and__", "__or__", "__xor__", "_to_copy", "clone", "dropout", "feature_dropout", "alpha_dropout", "hardswish",
    "log_sigmoid", "masked_fill", "native_dropout", "rsub", "to", "type_as", "where",
))
#: operators along dimensions that their argument `dim` names
_ALONG = frozenset((
    "_log_softmax", "_safe_softmax", "_softmax", "amax", "amin", "cumsum", "glu", "linalg_vector_norm", "log_softmax",
    "logsumexp", "max", "mean", "min", "norm", "prod", "softmax", "std", "sum", "var",
))
#: operators on the last dimensions alone, and how many
_LAST: dict[str, int] = {"linear": 1, "tril": 2, "triu": 2, "scaled_dot_product_attention": 2}
_PRODUCTS = frozenset(("addmm", "baddbmm", "bmm", "matmul", "mm", "mv"))
_FACTORS = ("self", "other", "input", "mat1", "mat2", "batch1", "batch2", "vec")
# fmt: on

#: parts of a merged batch that are taken one by one
_MOST_PARTS = 64


def needs_lifting(w: Placing, target: Any, name: str, a: Args) -> bool:
    """Whether an operator reads a value with its batch elsewhere, or would lay its result out so."""
    values = list(_values(a))
    if name in _PLACING:
        return False
    if any(isinstance(v, Laid) for v in values):
        return True
    if name == "stack":
        return a["dim"] in (0, -len(w.shape(values[0])) - 2)
    if name in ("cat", "concat", "concatenate"):
        return a["dim"] in (0, -len(w.shape(values[0])) - 1)
    if _entrywise(target, name):
        ranks = {w.rank(v) for v in values}
        return len(ranks) > 1 or any(isinstance(t, Tensor) and t.dim() > max(ranks) for t in a.values())
    return False


#: operators that place values with their batch anywhere by themselves
_PLACING = frozenset((
    "copy", "diagonal_scatter", "einsum", "gru", "index_copy", "index_fill", "index_put", "lstm", "rnn_relu",
    "rnn_tanh",
    "scatter", "select_scatter", "slice_scatter", "sym_size",
))  # fmt: skip


def lifted(w: Placing, target: Any, name: str, a: Args) -> Any:
    """The result of the current operator, some of whose operands have their batch elsewhere."""
    if _entrywise(target, name):
        return on_entries(w, name, a)
    if name in ("cat", "concat", "concatenate", "stack"):
        return _joined(w, name, a)
    if name in _ALONG:
        return _along(w, name, a)
    if name in _PRODUCTS:
        return _product(w, name, a)
    if name in ("pad", "constant_pad_nd"):
        return _padded(w, name, a)
    if name in _LAST or name in ("layer_norm", "rms_norm"):
        count = _LAST.get(name) or len(a["normalized_shape"])
        return _on_last(w, name, a, count)
    return _one_by_one(w, name, a)


def _values(a: Args) -> Any:
    for value in a.values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, Value):
                yield one


def _entrywise(target: Any, name: str) -> bool:
    return name in _ENTRYWISE or torch.Tag.pointwise in getattr(target, "tags", ())


def _results(result: Any, layout: Layout, w: Placing) -> Any:
    if isinstance(result, list | tuple):
        return tuple(_results(r, layout, w) for r in result)
    return w.settled(Laid(result, layout)) if isinstance(result, Var) else result


def _aligned(w: Placing, operands: Sequence[Any]) -> tuple[list[Any], Layout]:
    """Nodes and constants in one rank, whose batch lies at one place; refused where it does not."""
    laid = [w.laid(v) if isinstance(v, Value) else v for v in operands]
    rank = max(w.rank(v) if isinstance(v, Laid) else v.dim() if isinstance(v, Tensor) else 0 for v in laid)
    places = {replace(v.layout, dim=v.layout.dim + rank - w.rank(v)) for v in laid if isinstance(v, Laid)}
    if w.batch == 1:  # any place is as good as another
        places = {Layout(0)}
    if len(places) > 1:
        shapes = " and ".join(str(w.traced_shape(v)) for v in operands if isinstance(v, Value))
        raise w.unsupported(
            f"shapes {shapes} broadcast the batch dimension of one against another dimension of the other"
        )
    (place,) = places
    found: list[Any] = []
    for value in laid:
        if isinstance(value, Laid):
            shape = w.shape(value.var)
            found.append(w.reshaped(value.var, ((1,) * (rank - len(shape)) + tuple(shape))))
        elif isinstance(value, Tensor) and value.dim() >= rank - place.dim:
            one = of_one_example(value, place.dim - rank, place, w.batch)
            if one is None:
                raise w.mixes()
            found.append(one)
        else:
            found.append(value)
    return found, place


def on_entries(w: Placing, name: str, a: Args) -> Any:
    """An operator that takes every entry by itself, its operands broadcast."""
    names = [n for n, v in a.items() if isinstance(v, Value | Tensor)]
    operands, place = _aligned(w, [a[n] for n in names])
    result = HANDLERS[name](w, {**a, **dict(zip(names, operands, strict=True))})
    return _results(result, place, w)


def _joined(w: Placing, name: str, a: Args) -> Any:
    parts = list(a["tensors"])
    first = next(p for p in parts if isinstance(p, Value))
    rank = w.rank(first)
    stacked = name == "stack"
    dim = a["dim"] % (rank + stacked)
    if not stacked and dim == w.laid(first).layout.dim and w.batch > 1:
        return _joined_batches(w, parts, rank, dim)
    operands, place = _aligned(w, parts)
    like = next(p for p in operands if isinstance(p, Var))
    shape = w.shape(like)
    nodes = []
    for part in operands:
        own = list(shape) if stacked or isinstance(part, Var) else list(part.shape)
        node = part if isinstance(part, Var) else w.as_node(part, like, tuple(own))
        if stacked:
            node = w.reshaped(node, (*shape[:dim], 1, *shape[dim:]))
        nodes.append(node)
    moved = stacked and dim <= place.dim
    return _results(w.emit(Concat(dim), *nodes), replace(place, dim=place.dim + moved), w)


def _joined_batches(w: Placing, parts: Sequence[Any], rank: int, dim: int) -> Any:
    """Values joined along the batch: a batch of twice as many, as networks for pairs have it."""
    laid = [w.laid(p) for p in parts if isinstance(p, Value)]
    if len(laid) < len(parts) or any(v.layout.inner != 1 or v.layout.dim != dim or w.rank(v) != rank for v in laid):
        raise w.mixes()
    node = w.emit(Concat(dim), *(v.var for v in laid))
    return w.settled(Laid(node, Layout(dim, sum(v.layout.outer for v in laid))))


def _along(w: Placing, name: str, a: Args) -> Any:
    value = w.laid(a["self"] if "self" in a else a["input"])
    rank, place = w.rank(value), value.layout
    given = a.get("dim")
    dims = [d % rank for d in ([given] if isinstance(given, int) else given or range(rank))]
    if place.dim in dims and w.batch > 1:
        raise w.mixes()
    key = "self" if "self" in a else "input"
    shifted: Any = dims[0] + 1 if isinstance(given, int) else [d + 1 for d in dims]
    result = HANDLERS[name](w, {**a, key: value.var, "dim": shifted})
    kept = len(w.shape(result[0] if isinstance(result, tuple) else result)) == rank
    gone = 0 if kept else sum(d < place.dim for d in dims)
    return _results(result, replace(place, dim=place.dim - gone), w)


def _on_last(w: Placing, name: str, a: Args, count: int) -> Any:
    """What leaves all but the last `count` dimensions to themselves."""
    names = [n for n, v in a.items() if isinstance(v, Value)]
    operands, place = _aligned(w, [a[n] for n in names])
    if place.dim >= len(w.shape(operands[0])) - count and w.batch > 1:
        raise w.mixes()
    return _results(HANDLERS[name](w, {**a, **dict(zip(names, operands, strict=True))}), place, w)


def _padded(w: Placing, name: str, a: Args) -> Any:
    if a.get("mode", "constant") == "constant":
        return _on_last(w, name, a, len(a["pad"]) // 2)
    value = w.laid(a["self"])
    return w.followed(value.var, functional.pad(w.numbers(value), a["pad"], mode=a["mode"]))


def _product(w: Placing, name: str, a: Args) -> Any:
    left, right = [n for n in a if n in _FACTORS][-2:]
    x, y = a[left], a[right]
    if isinstance(x, Value) and isinstance(y, Value):
        return _on_last(w, name, a, 2)
    value = w.laid(x if isinstance(x, Value) else y)
    constant = y if isinstance(x, Value) else x
    rank, place = w.rank(value), value.layout
    contracted = rank - 1 if isinstance(x, Value) else rank - 2
    if (place.dim == contracted and w.batch > 1) or rank < 2:
        raise w.mixes()
    if constant.dim() > 2 and constant.dim() >= rank - place.dim:
        aligned = of_one_example(constant, place.dim - rank, place, w.batch)
        if aligned is None or constant.dim() > rank:
            raise w.mixes()
        constant = aligned
    changed = {left: value.var, right: constant} if isinstance(x, Value) else {left: constant, right: value.var}
    return _results(HANDLERS[name](w, {**a, **changed}), place, w)


def _one_by_one(w: Placing, name: str, a: Args) -> Any:
    """An operator that needs the batch in front, on a batch merged with another dimension: part after part."""
    names = [n for n, v in a.items() if isinstance(v, Value)]
    if len(names) != 1:
        raise w.mixes()
    value = w.laid(a[names[0]])
    place, handler = value.layout, HANDLERS[name]
    count = place.outer * place.inner
    if place.dim != 0:
        raise w.mixes()
    if count > _MOST_PARTS:
        raise w.unsupported(f"it runs {count} times on parts of an example; at most {_MOST_PARTS} are taken")
    shape = w.shape(value.var)
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    results = [handler(w, {**a, names[0]: w.gathered(value.var, part)}) for part in numbers]
    pairs = isinstance(results[0], tuple)
    nodes = [r[0] if pairs else r for r in results]
    if not all(isinstance(n, Var) for n in nodes):
        raise w.mixes()
    joined = w.emit(Concat(0), *(w.reshaped(n, (1, *w.shape(n))) for n in nodes)) if count > 1 else nodes[0]
    if count == 1:
        joined = w.reshaped(joined, (1, *w.shape(joined)))
    result = w.settled(Laid(joined, place))
    return (result, *results[0][1:]) if pairs else result
