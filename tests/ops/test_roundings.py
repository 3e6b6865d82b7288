"""What float32 may make of an activation's value, against what is allowed for it."""

from __future__ import annotations

import pytest
import torch

from verifier.graph import GraphBuilder
from verifier.ops.base import REGISTRY, Activation
from verifier.rounding import evaluation_error, unit_roundoff

EXAMPLES = [
    (f"{name}-{i}", example.op)
    for name, kind in sorted(REGISTRY.items())
    for i, example in enumerate(kind.examples())
    if isinstance(example.op, Activation)
]


@pytest.mark.parametrize("op", [op for _, op in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_float32_values_are_within_their_allowance(op: Activation) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(1, 4000, generator=generator) * scale for scale in (0.01, 1.0, 4.0)], 1)
    x = x.clamp(*op.facts.domain)
    builder = GraphBuilder((x.shape[1],))
    builder.add(op, [0])
    graph = builder.build()
    exact = graph.values(x.double())
    allowed = evaluation_error(graph, exact, unit_roundoff(torch.float32))
    assert ((graph.forward(x).double() - exact[-1]).abs() <= allowed).all()
