"""Recurrences of a fixed length, written out step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verifier.graph.emitter import Emitter, Var
from verifier.ops.base import Operator
from verifier.ops.concat import Concat
from verifier.ops.linear import Linear
from verifier.ops.relu import ReLU
from verifier.ops.shape import Reshape
from verifier.ops.smooth import Sigmoid, Tanh


@dataclass(frozen=True)
class Weights:
    """One direction of one layer, gates one after another: [G H, I], [G H, H], [G H] or None each."""

    inward: Tensor
    recurrent: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None


def unrolled(
    w: Emitter, x: Var, weights: Weights, cell: str, start: Sequence[Tensor], backwards: bool = False
) -> tuple[Var, list[Any]]:
    """The outputs [T, H] of a recurrence over x [T, I], and its last state, each [H].

    Args:
        cell: "lstm", "gru", "gru_before" (the reset before the product), "rnn_tanh" or "rnn_relu".
        start: the state before the first step, [H] each: of an LSTM h and c.
    """
    steps = w.shape(x)[0]
    state: list[Any] = list(start)
    inward = w.emit(Linear(weights.inward, weights.bias), x)
    outputs: list[Var] = []
    numbers = torch.arange(steps * weights.inward.shape[0]).reshape(steps, -1)
    for t in reversed(range(steps)) if backwards else range(steps):
        state = _CELLS[cell](w, w.gathered(inward, numbers[t]), weights, state)
        outputs.append(w.emit(Reshape((1, *w.shape(state[0]))), state[0]))
    if backwards:
        outputs.reverse()
    return outputs[0] if steps == 1 else w.emit(Concat(0), *outputs), state


def _onto(w: Emitter, state: Any, weights: Weights) -> Any:
    """What the state brings to the gates, [G H]: a node, or a constant at the start."""
    if not isinstance(state, Var):
        bias = weights.recurrent_bias
        if not bool((state != 0).any()):
            return weights.recurrent.new_zeros(len(weights.recurrent)) if bias is None else bias
        state = w.as_node(state, Var(0), tuple(state.shape))  # the product as a constant would have to be rounded
    return w.emit(Linear(weights.recurrent, weights.recurrent_bias), state)


def _part(w: Emitter, x: Any, gate: int, gates: int) -> Any:
    size = (w.shape(x)[0] if isinstance(x, Var) else len(x)) // gates
    if not isinstance(x, Var):
        return x[gate * size : (gate + 1) * size]
    return w.gathered(x, torch.arange(gate * size, (gate + 1) * size))


def _lstm(w: Emitter, x: Var, weights: Weights, state: Any) -> list[Any]:
    h, c = state
    gates = w.sum(x, _onto(w, h, weights))
    i, f, o = (w.emit(Sigmoid(), _part(w, gates, k, 4)) for k in (0, 1, 3))
    g = w.emit(Tanh(), _part(w, gates, 2, 4))
    kept = w.product(f, c) if isinstance(c, Var) or bool((c != 0).any()) else None
    new = w.product(i, g)
    c = new if kept is None else w.sum(kept, new)
    return [w.product(o, w.emit(Tanh(), c)), c]


def _gru(w: Emitter, x: Var, weights: Weights, state: Any, before: bool = False) -> list[Any]:
    (h,) = state
    size = weights.inward.shape[0] // 3
    moved = _onto(w, h, weights)
    r, z = (w.emit(Sigmoid(), w.sum(_part(w, x, k, 3), _part(w, moved, k, 3))) for k in (0, 1))
    if before:
        bias = weights.recurrent_bias
        own = Weights(weights.inward, weights.recurrent[2 * size :], None, None if bias is None else bias[2 * size :])
        reset = w.product(r, h) if isinstance(h, Var) or bool((h != 0).any()) else torch.zeros(size, dtype=w.dtype)
        inner = w.sum(_part(w, x, 2, 3), _onto(w, reset, own))
    else:
        inner = w.sum(_part(w, x, 2, 3), w.product(r, _part(w, moved, 2, 3)))
    n = w.emit(Tanh(), inner)
    return [w.sum(n, w.product(z, w.difference(h, n)))]  # (1 - z) n + z h


def _plain(activation: type[Operator]) -> Callable[..., list[Any]]:
    def cell(w: Emitter, x: Var, weights: Weights, state: Any) -> list[Any]:
        return [w.emit(activation(), w.sum(x, _onto(w, state[0], weights)))]

    return cell


_CELLS: dict[str, Callable[..., list[Any]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "gru_before": lambda w, x, weights, state: _gru(w, x, weights, state, True),
    "rnn_tanh": _plain(Tanh),
    "rnn_relu": _plain(ReLU),
}
