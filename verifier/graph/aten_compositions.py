"""ATen operators that become several nodes: softmax, normalisation, attention, recurrences, quotients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from verifier.graph.compositions.attention import attended, attention, transposed
from verifier.graph.compositions.pairs import bilinear, cosine
from verifier.graph.compositions.recurrent import Weights, unrolled
from verifier.graph.compositions.softmax import log_softmax, logsumexp, softmax
from verifier.graph.compositions.statistics import (
    group_norm,
    normalised,
    power_norm,
    product_along,
    root_mean_square,
    scaled_and_shifted,
    variance,
)
from verifier.graph.emitter import Var
from verifier.graph.layout import Laid, Layout
from verifier.graph.walker import Walker, constants_only, name_of
from verifier.ops.concat import Concat
from verifier.ops.handlers import ATEN as HANDLERS
from verifier.ops.handlers import Args, handles
from verifier.ops.powers import Sqrt
from verifier.ops.shape import Reshape
from verifier.ops.smooth import Sigmoid


def _rank(w: Walker, a: Args) -> int:
    return len(w.shape(a["self"])) + 1


@handles("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
def _softmax(w: Walker, a: Args) -> Var:
    w.same_precision(a)
    (dim,) = w.dims(a["dim"], _rank(w, a))
    return (log_softmax if "log" in name_of(w.node.target) else softmax)(w, a["self"], dim)


@handles("logsumexp")
def _logsumexp(w: Walker, a: Args) -> Var:
    return logsumexp(w, a["self"], w.dims(a["dim"], _rank(w, a)), a["keepdim"])


@handles("layer_norm", "native_layer_norm")
def _layer_norm(w: Walker, a: Args) -> Any:
    constants_only(w, a, "weight", "bias")
    result = scaled_and_shifted(w, normalised(w, a["input"], _last(w, a), a["eps"]), a["weight"], a["bias"])
    return (result, None, None) if name_of(w.node.target).startswith("native") else result


@handles("rms_norm")
def _rms_norm(w: Walker, a: Args) -> Var:
    constants_only(w, a, "weight")
    eps = torch.finfo(w.dtype).eps if a["eps"] is None else a["eps"]
    w.computed |= a["eps"] is None  # in another precision the model adds another number
    return scaled_and_shifted(w, root_mean_square(w, a["input"], _last(w, a), eps), a["weight"], None)


def _last(w: Walker, a: Args) -> list[int]:
    """The dimensions of a normalised shape, batch-free."""
    rank, count = len(w.shape(a["input"])), len(a["normalized_shape"])
    if count > rank:
        raise w.mixes()
    return list(range(rank - count, rank))


@handles("group_norm", "native_group_norm")
def _group_norm(w: Walker, a: Args) -> Any:
    constants_only(w, a, "weight", "bias")
    groups = int(a["num_groups"] if "num_groups" in a else a["group"])
    result = group_norm(w, a["input"], groups, a["weight"], a["bias"], a["eps"])
    return (result, None, None) if name_of(w.node.target).startswith("native") else result


@handles("instance_norm")
def _instance_norm(w: Walker, a: Args) -> Var:
    constants_only(w, a, "weight", "bias")
    if not a["use_input_stats"]:
        raise w.unsupported("instance normalisation by running statistics: use a batch norm")
    if len(w.shape(a["input"])) < 2:
        raise w.mixes()
    return group_norm(w, a["input"], w.shape(a["input"])[0], a["weight"], a["bias"], a["eps"])


@handles("var", "std")
def _variance(w: Walker, a: Args) -> Var:
    correction = a.get("correction", float(bool(a.get("unbiased", True))))
    found = variance(
        w, a["self"], w.dims(a.get("dim"), _rank(w, a)), 1.0 if correction is None else float(correction), a["keepdim"]
    )
    return w.emit(Sqrt(), found) if name_of(w.node.target) == "std" else found


@handles("norm", "linalg_vector_norm")
def _norm(w: Walker, a: Args) -> Var:
    order = a.get("ord", a.get("p", 2))
    return power_norm(w, a["self"], 2.0 if order is None else float(order), w.dims(a["dim"], _rank(w, a)), a["keepdim"])


@handles("prod")
def _prod(w: Walker, a: Args) -> Var:
    w.same_precision(a)
    return product_along(w, a["self"], w.dims(a.get("dim"), _rank(w, a)), a["keepdim"])


@handles("glu")
def _glu(w: Walker, a: Args) -> Var:
    (dim,) = w.dims(a["dim"], _rank(w, a))
    shape = w.shape(a["self"])
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    left, right = (w.gathered(a["self"], part) for part in numbers.chunk(2, dim))
    return w.product(left, w.emit(Sigmoid(), right))


@handles("bilinear")
def _bilinear(w: Walker, a: Args) -> Var:
    x, y, weight = a["input1"], a["input2"], a["weight"]
    return bilinear(w, x, y, weight, a["bias"]) if isinstance(x, Var) else bilinear(
        w, y, x, weight.transpose(1, 2), a["bias"]
    )  # fmt: skip


@handles("cosine_similarity")
def _cosine(w: Walker, a: Args) -> Var:
    pair = a["x1"], a["x2"]
    rank = max(len(w.shape(v)) + 1 if isinstance(v, Var) else v.dim() for v in pair)
    (dim,) = w.dims(a["dim"], rank)
    return cosine(w, *pair, dim - (rank - 1), a["eps"])


@handles("scaled_dot_product_attention")
def _attention(w: Walker, a: Args) -> Var:
    if a.get("dropout_p"):
        raise w.training()
    if a.get("enable_gqa"):
        raise w.unsupported("attention with groups of heads")
    if isinstance(a["attn_mask"], Var | Laid):
        raise w.unsupported("its mask depends on the input")
    given = [a[n] for n in ("query", "key", "value")]
    if not all(isinstance(v, Var) for v in given[1:]):
        raise w.unsupported("its keys or values are constant")
    mask = a["attn_mask"]
    if mask is not None and mask.dim() > len(w.shape(given[0])):
        if not bool((mask == mask[:1]).all()):
            raise w.mixes()
        mask = mask[0]
    q, k, v = given
    if not isinstance(q, Var):
        scores = HANDLERS["matmul"](w, {"self": q, "other": transposed(w, k)})
        return attended(w, scores, v, q.shape[-1], mask, a["is_causal"], a["scale"])
    return attention(w, q, k, v, mask, a["is_causal"], a["scale"])


# --- recurrences -----------------------------------------------------------------------------------------------------


def _recurrence(w: Walker, a: Args, cell: str) -> tuple[Any, ...]:
    value, first = a["input"], a["batch_first"]
    laid = w.laid(value)
    expected = Layout(0 if first else 1)
    if w.rank(value) != 3 or (laid.layout != expected and w.batch > 1):
        raise w.mixes()
    x = w.emit(Reshape(tuple(n for d, n in enumerate(w.shape(laid.var)) if d != expected.dim)), laid.var)
    if a["train"] and a["dropout"]:
        raise w.training()
    start = a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
    if any(isinstance(t, Var | Laid) for t in start):
        raise w.unsupported("its first state depends on the input")
    starts = [_state(w, t) for t in start]
    step = 4 if a["has_biases"] else 2
    weights = [a["params"][i : i + step] for i in range(0, len(a["params"]), step)]
    directions = 2 if a["bidirectional"] else 1
    finals: list[Sequence[Any]] = []
    for layer in range(a["num_layers"]):
        outputs = []
        for d in range(directions):
            number = layer * directions + d
            inward, recurrent, *biases = weights[number]
            own = Weights(inward, recurrent, *(biases or (None, None)))
            output, state = unrolled(w, x, own, cell, [s[number] for s in starts], d == 1)
            outputs.append(output)
            finals.append(state)
        x = outputs[0] if directions == 1 else w.emit(Concat(1), *outputs)
    steps, width = w.shape(x)
    result = x if first else Laid(w.emit(Reshape((steps, 1, width)), x), Layout(1))
    ends = []
    for part in zip(*finals, strict=True):
        rows = [w.emit(Reshape((1, 1, *w.shape(v))), v) for v in part]
        ends.append(Laid(rows[0] if len(rows) == 1 else w.emit(Concat(0), *rows), Layout(1)))
    return (result, *ends)


def _state(w: Walker, t: Tensor) -> Tensor:  # [layers * directions, B, H] -> [layers * directions, H]
    if not bool((t == t[:, :1]).all()):
        raise w.mixes()
    return t[:, 0].to(w.dtype)


handles("lstm")(lambda w, a: _recurrence(w, a, "lstm"))
handles("gru")(lambda w, a: _recurrence(w, a, "gru"))
handles("rnn_tanh")(lambda w, a: _recurrence(w, a, "rnn_tanh"))
handles("rnn_relu")(lambda w, a: _recurrence(w, a, "rnn_relu"))
