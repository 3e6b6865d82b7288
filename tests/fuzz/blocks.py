"""Steps of drawn networks that need more than one operator: functions with a domain, jumps, products, what is made of
them.

Whatever a function is not defined on is kept from it by construction: a root reads squares plus a constant, say. What
bounds make of it is theirs: they may reach beyond the domain, and an UNKNOWN is an answer.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch

from verifier.errors import UnsupportedError
from verifier.graph import GraphBuilder
from verifier.graph.compositions.attention import attention
from verifier.graph.compositions.softmax import log_softmax, softmax
from verifier.graph.compositions.statistics import normalised, root_mean_square
from verifier.graph.emitter import Emitter, Var
from verifier.ops.absolute import Abs
from verifier.ops.base import REGISTRY, Activation
from verifier.ops.elementwise import Multiply, Shift
from verifier.ops.exponential import Exp, Softplus
from verifier.ops.periodic import Tan
from verifier.ops.powers import Square
from verifier.ops.smooth import Sigmoid, Tanh

#: activations that have a domain or jumps, by name
FUNCTIONS = [
    name
    for name, kind in sorted(REGISTRY.items())
    if not inspect.isabstract(kind)
    and issubclass(kind, Activation)
    and any(e.op.facts.domain != (-np.inf, np.inf) or e.op.facts.jumps for e in kind.examples())
]
#: functions whose values are not below zero, which functions that take no others may read
_NOT_NEGATIVE = (Exp, Square, Softplus, Abs, Sigmoid)
BLOCKS = ["product", "matrix product", "gate", "layer norm", "RMS norm", "softmax", "log softmax", "attention"]


class Writer(Emitter):
    """Adds to a graph what importers would make of a composition."""

    def __init__(self, builder: GraphBuilder, kind: str) -> None:
        super().__init__(builder.nodes[0].shape, torch.float64)
        self.builder, self.kind, self.start = builder, kind, len(builder.nodes)

    @property
    def label(self) -> str:
        return f"{self.kind} {self.start}"

    @property
    def origin(self) -> str:
        return "drawn"

    def unsupported(self, reason: str, list_all: bool = False) -> UnsupportedError:
        return UnsupportedError(reason)

    def constant(self, value: float, rank: int) -> float:
        return value


def function(builder: GraphBuilder, name: str, example: int, parent: int, generator: np.random.Generator) -> int:
    """One of `FUNCTIONS` of the parent, of what is within its domain."""
    w, examples = Writer(builder, name), REGISTRY[name].examples()
    op, x = examples[example % len(examples)].op, Var(parent)
    assert isinstance(op, Activation)
    if isinstance(op, Tan):
        x = w.emit(Multiply(1.5), w.emit(Tanh(), x))
    elif op.facts.domain[0] >= 0:
        kind = _NOT_NEGATIVE[generator.integers(len(_NOT_NEGATIVE))]
        x = w.emit(Shift(float(generator.choice([1e-3, 0.125, 1.0]))), w.emit(kind(), x))
    return w.emit(op, x).index


def block(builder: GraphBuilder, kind: str, parents: list[int], generator: np.random.Generator) -> int:
    """One of `BLOCKS`, of entries of the parents."""
    w = Writer(builder, kind)

    def drawn(*shape: int) -> Var:
        parent = parents[generator.integers(len(parents))]
        return w.gathered(Var(parent), torch.from_numpy(generator.integers(builder.nodes[parent].size, size=shape)))

    if kind == "attention":
        out = attention(w, drawn(2, 2), drawn(3, 2), drawn(3, 2), causal=bool(generator.integers(2)))
    elif kind == "matrix product":
        out = w.matrix_product(drawn(2, 3), drawn(3, 2))
    elif kind == "product":
        out = w.product(drawn(4), drawn(4))
    elif kind == "gate":
        out = w.product(drawn(4), w.emit(Sigmoid(), drawn(4)))
    elif kind in ("layer norm", "RMS norm"):
        norm = normalised if kind == "layer norm" else root_mean_square
        out = norm(w, drawn(2, 3), [1], float(generator.choice([1e-5, 1e-2, 1.0])))
    else:
        out = (softmax if kind == "softmax" else log_softmax)(w, drawn(2, int(generator.integers(1, 4))), 1)
    return out.index
