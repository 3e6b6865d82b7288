"""Which neurons a specification can depend on at all: an output of a detector sees a part of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.device import sent
from verifier.forms import Dense, LinearForm
from verifier.graph import Graph
from verifier.ops.base import Activation, Affine
from verifier.query import Query


def demanded(query: Query) -> dict[int, Tensor] | None:
    """The neurons of pre-activations that some open row of an example depends on, through whatever path.

    Returns:
        Pre-activation -> [B, *shape] bool; None where these are all neurons, or no row is open.
    """
    graph, rows = query.graph, query.spec.rows
    if graph.has_products or not graph.pre_activations or query.most_open == 0:
        return None
    seen = ((rows != 0) & query.open.unsqueeze(2)).any(1)  # [B, outputs]
    reached = [mask.all() for mask in _reached(graph, seen.any(0, keepdim=True)).values()]
    if bool(torch.stack(reached).all()):
        return None
    return _reached(graph, seen)


def _reached(graph: Graph, outputs: Tensor) -> dict[int, Tensor]:  # [B, outputs] bool
    """Where a form with random coefficients on these outputs is not zero, [B, *shape] bool per pre-activation.

    A neuron whose coefficients cancel, which never happens to random ones, would only go without a bound of its own.
    """
    generator = torch.Generator().manual_seed(0)

    def random(mask: Tensor) -> Tensor:  # [...] bool -> [...]
        draw = torch.rand(mask.shape, generator=generator, dtype=torch.float64) + 0.5
        return torch.where(mask, sent(draw, mask.device).to(graph.dtype), 0.0)

    start = random(outputs).unsqueeze(1).unflatten(2, graph.output_shape)
    pending: dict[int, LinearForm] = {graph.output: Dense(start)}
    found = {i: outputs.new_zeros(len(outputs), *graph.nodes[i].shape) for i in graph.pre_activations}
    with torch.no_grad():
        for i in range(graph.output, 0, -1):
            form = pending.pop(i, None)
            if form is None:
                continue
            op, parents = graph.nodes[i].op, graph.nodes[i].parents
            if i in found:
                found[i] = (form.dense() != 0).squeeze(1)
            for k, parent in enumerate(parents):
                if isinstance(op, Activation):
                    pulled: LinearForm = Dense(random(form.dense() != 0))
                else:
                    assert isinstance(op, Affine)
                    pulled = op.adjoint(form, graph.parent_shapes(i), k)
                pending[parent] = pending[parent].add(pulled) if parent in pending else pulled
    return found
