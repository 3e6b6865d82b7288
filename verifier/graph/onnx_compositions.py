"""ONNX operators that become several nodes: softmax, normalisation, norms, recurrences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.compositions.recurrent import Weights, unrolled
from verifier.graph.compositions.softmax import log_softmax, logsumexp, softmax
from verifier.graph.compositions.statistics import (
    centred,
    group_norm,
    normalised,
    power_norm,
    product_along,
    quotient,
    root_mean_square,
    scaled_and_shifted,
)
from verifier.graph.emitter import Var
from verifier.graph.onnx_walker import OnnxValue, OnnxWalker, Operand
from verifier.ops.clip import Clip
from verifier.ops.concat import Concat
from verifier.ops.exponential import Log
from verifier.ops.handlers import onnx_operator
from verifier.ops.pool import Reduce
from verifier.ops.powers import Square
from verifier.ops.shape import Reshape

_EPSILON = float(np.float32(1e-5))


def _softmaxes(w: OnnxWalker, x: Operand, function: Callable[[OnnxWalker, Var, int], Var]) -> OnnxValue:
    x = w.dependent(x)
    rank = len(x.shape)
    if w.opset >= 13:
        axis = w.axis(w.attribute("axis", -1), rank)
        return w.value(function(w, w.in_full(x), axis), x.shape)
    axis = w.axis(w.attribute("axis", 1), rank) if w.attribute("axis", 1) != rank else rank
    rows = w.reshaped(x.var, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))  # over all that follows
    return w.value(function(w, rows, 1), x.shape)


onnx_operator("Softmax")(lambda w, x: _softmaxes(w, x, softmax))
onnx_operator("LogSoftmax")(lambda w, x: _softmaxes(w, x, log_softmax))

# --- reductions ------------------------------------------------------------------------------------------------------


def _reduced(w: OnnxWalker, x: Operand, axes: Operand, function: Callable[[Var, list[int]], Var]) -> OnnxValue:
    """function(node, dimensions) without these dimensions, which are put back as ones where asked."""
    x = w.dependent(x)
    rank = len(x.shape)
    given = w.attribute("axes") if axes is None else w.integers(axes, "axes")
    if not given and w.attribute("noop_with_empty_axes", 0):
        raise w.unsupported("a reduction over no axes")
    dims = w.axes(given, rank) if given else list(range(rank))
    found = function(w.in_full(x), dims)
    kept = w.attribute("keepdims", 1)
    shape = [1 if d in dims else n for d, n in enumerate(x.shape) if kept or d not in dims]
    return w.value(found, shape)


def _reduction(function: Callable[[OnnxWalker, Var, list[int]], Var]) -> Callable[..., OnnxValue]:
    def handler(w: OnnxWalker, x: Operand, axes: Operand = None) -> OnnxValue:
        return _reduced(w, x, axes, lambda v, dims: function(w, v, dims))

    return handler


onnx_operator("ReduceLogSumExp")(_reduction(lambda w, v, dims: logsumexp(w, v, dims, False)))
onnx_operator("ReduceL1")(_reduction(lambda w, v, dims: power_norm(w, v, 1.0, dims, False)))
onnx_operator("ReduceL2")(_reduction(lambda w, v, dims: power_norm(w, v, 2.0, dims, False)))
onnx_operator("ReduceProd")(_reduction(lambda w, v, dims: product_along(w, v, dims, False)))
onnx_operator("ReduceSumSquare")(_reduction(lambda w, v, dims: w.emit(Reduce(dims), w.emit(Square(), v))))
onnx_operator("ReduceLogSum")(_reduction(lambda w, v, dims: w.emit(Log(), w.emit(Reduce(dims), v))))

# --- normalisation ---------------------------------------------------------------------------------------------------


def _constants(w: OnnxWalker, *given: Operand) -> list[Tensor | None]:  # [...] each
    return [None if t is None else w.weights(t, "scale or bias") for t in given]


def _trailing(w: OnnxWalker, x: OnnxValue) -> list[int]:
    return list(range(w.axis(w.attribute("axis", -1), len(x.shape)), len(x.shape)))


@onnx_operator("LayerNormalization")
def _layer_norm(w: OnnxWalker, x: Operand, scale: Operand, bias: Operand = None) -> OnnxValue:
    x = w.dependent(x)
    result = normalised(w, w.in_full(x), _trailing(w, x), w.attribute("epsilon", _EPSILON))
    return w.value(scaled_and_shifted(w, result, *_constants(w, scale, bias)), x.shape)


@onnx_operator("RMSNormalization")
def _rms_norm(w: OnnxWalker, x: Operand, scale: Operand) -> OnnxValue:
    x = w.dependent(x)
    result = root_mean_square(w, w.in_full(x), _trailing(w, x), w.attribute("epsilon", _EPSILON))
    return w.value(scaled_and_shifted(w, result, _constants(w, scale)[0], None), x.shape)


def _of_channels(w: OnnxWalker, x: Operand, groups: int | None, scale: Operand, bias: Operand) -> OnnxValue:
    x = w.dependent(x)
    var = w.batched(x, 3)
    channels = x.shape[1]
    constants = _constants(w, scale, bias)
    count = channels if groups is None else groups
    spread = [t.repeat_interleave(channels // t.numel()) for t in constants if t is not None and t.numel()]
    if len(spread) != 2 or any(len(t) != channels for t in spread):
        raise ModelError(str(w.unsupported(f"its scale and bias do not fit {channels} channels")))
    result = group_norm(w, var, count, spread[0], spread[1], w.attribute("epsilon", _EPSILON))
    return w.value(result, x.shape)


@onnx_operator("InstanceNormalization")
def _instance_norm(w: OnnxWalker, x: Operand, scale: Operand, bias: Operand) -> OnnxValue:
    return _of_channels(w, x, None, scale, bias)


@onnx_operator("GroupNormalization")
def _group_norm(w: OnnxWalker, x: Operand, scale: Operand, bias: Operand) -> OnnxValue:
    return _of_channels(w, x, w.attribute("num_groups", 1), scale, bias)


@onnx_operator("LpNormalization")
def _lp_norm(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    axis = w.axis(w.attribute("axis", -1), len(x.shape))
    var = w.in_full(x)
    return w.value(quotient(w, var, power_norm(w, var, float(w.attribute("p", 2)), (axis,), True)), x.shape)


@onnx_operator("MeanVarianceNormalization")
def _mean_variance(w: OnnxWalker, x: Operand) -> OnnxValue:
    x = w.dependent(x)
    dims = w.axes(w.attribute("axes") or [0, 2, 3], len(x.shape))
    middle = centred(w, w.in_full(x), dims)
    spread = power_norm(w, middle, 2.0, dims, True)
    count = math.prod(x.shape[d] for d in dims)
    root = w.emit(Clip(1e-9, None), w.scaled(spread, 1 / math.sqrt(count)))
    return w.value(quotient(w, middle, root), x.shape)


# --- recurrences -----------------------------------------------------------------------------------------------------

#: the order in which torch, as `compositions.recurrent`, has the gates that ONNX stores in its own
_ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _recurrence(w: OnnxWalker, kind: str, x: Operand, rest: Sequence[Operand]) -> list[OnnxValue]:
    x = w.dependent(x)
    weight, recurrent, bias, lengths, *states = [*rest, *[None] * 7][: 7 if kind == "LSTM" else 5]
    if kind == "LSTM":
        *states, peepholes = states
        if peepholes is not None and bool(w.tensor(peepholes, "peepholes").any()):
            raise w.unsupported("an LSTM with peepholes")
    cell = _cell(w, kind)
    if w.attribute("layout", 0) or len(x.shape) != 3 or x.shape[1] != 1 or w.attribute("clip") is not None:
        raise w.unsupported("a recurrence of another layout than [steps, 1, size], or one that clips")
    if lengths is not None and w.integers(lengths, "lengths") != [x.shape[0]]:
        raise w.unsupported("a sequence shorter than the input")
    own = [_in_order(w.weights(t, "weights"), kind) for t in (weight, recurrent)]
    biases = None if bias is None else w.weights(bias, "bias").chunk(2, 1)
    both = [None, None] if biases is None else [_in_order(b, kind) for b in biases]
    directions, size = own[1].shape[0], own[1].shape[2]
    starts = [torch.zeros(directions, 1, size, dtype=w.dtype) if s is None else w.weights(s, "state") for s in states]
    var = w.reshaped(x.var, (x.shape[0], x.shape[2]))
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
        w.attribute("direction", "forward")
    ]
    outputs, finals = [], []
    for d, backwards in enumerate(ways):
        given = Weights(own[0][d], own[1][d], *(None if b is None else b[d] for b in both))
        output, state = unrolled(w, var, given, cell, [s[d, 0] for s in starts], backwards)
        outputs.append(w.emit(Reshape((x.shape[0], 1, 1, size)), output))
        finals.append(state)
    joined = outputs[0] if len(ways) == 1 else w.emit(Concat(1), *outputs)
    ends = []
    for part in zip(*finals, strict=True):
        rows = [w.emit(Reshape((1, 1, size)), v) for v in part]
        ends.append(w.value(rows[0] if len(rows) == 1 else w.emit(Concat(0), *rows), (len(ways), 1, size)))
    return [w.value(joined, (x.shape[0], len(ways), 1, size)), *ends]


def _cell(w: OnnxWalker, kind: str) -> str:
    """The step, by the activations named, of which only the usual are taken."""
    named = w.attribute_texts("activations") or []
    ways = 2 if w.attribute("direction", "forward") == "bidirectional" else 1
    if kind == "RNN" and named == ["Relu"] * ways:
        return "rnn_relu"
    if named and named != _USUAL[kind] * ways:
        raise w.unsupported(f"a recurrence with activations {', '.join(named)}")
    if kind == "GRU":
        return "gru" if w.attribute("linear_before_reset", 0) else "gru_before"
    return "lstm" if kind == "LSTM" else "rnn_tanh"


def _in_order(t: Tensor, kind: str) -> Tensor:  # [directions, gates * H, ...]
    parts = t.chunk(len(_ORDERS[kind]), 1)
    return torch.cat([parts[i] for i in _ORDERS[kind]], 1)


for _kind in _ORDERS:
    onnx_operator(_kind)(lambda w, x, *rest, kind=_kind: _recurrence(w, kind, x, rest))
