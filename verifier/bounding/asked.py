"""What is asked: which nodes of the network, which combinations of its outputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from properties import InputSet, Specification
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.ops.base import Activation
from verifier.query import Query


@dataclass(frozen=True)
class Asked:
    """Nodes whose entries are to be bounded, or rows on the outputs.

    Args:
        nodes: in the network's order; each with the rows on its entries, [B or 1, S, entries], or None for all entries.
        lines: whether linear functions of the input are wanted.
    """

    nodes: Mapping[int, Tensor | None]
    lines: bool

    def select(self, index: Tensor) -> dict[int, Tensor | None]:  # [k] int64
        """The rows of some examples."""
        return {i: rows if rows is None or len(rows) == 1 else rows[index] for i, rows in self.nodes.items()}

    @property
    def last(self) -> int:
        return max(self.nodes)


def asked_of(
    graph: Graph, of: str | Sequence[str], rows: Tensor | None, lines: bool, inputs: InputSet
) -> Asked:  # rows [S, outputs] or [B, S, outputs]
    """Checks of `bounds`' arguments. Raises InputError."""
    if rows is not None:
        if of != "outputs":
            raise InputError("C is rows on the outputs: leave out of=, or ask for nodes without C")
        return Asked({graph.output: _rows(graph, rows, inputs.batch)}, lines)
    if of == "outputs":
        return Asked({graph.output: None}, lines)
    by_name = {node.name: i for i, node in enumerate(graph.nodes) if i > 0}
    if of == "all":
        return Asked(dict.fromkeys(by_name.values()), lines)
    if isinstance(of, str):
        hint = f"[{of!r}]" if of in by_name else "a list of names of nodes"
        raise InputError(f'of must be "outputs", "all" or a list of names, got {of!r}; write of={hint}')
    if not of:
        raise InputError('of is an empty list: name a node, or ask for "outputs" or "all"')
    for name in of:
        if name not in by_name:
            near = difflib.get_close_matches(str(name), by_name, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"the network has no node {name!r}: {meant}it has {', '.join(by_name)}")
    return Asked(dict.fromkeys(sorted(by_name[name] for name in of)), lines)


def _rows(graph: Graph, rows: Tensor, batch: int) -> Tensor:  # -> [B or 1, S, outputs]
    outputs = graph.nodes[graph.output].size
    if not isinstance(rows, Tensor) or rows.dim() not in (2, 3) or rows.shape[-1] != outputs or rows.shape[-2] == 0:
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"C must be a tensor [S, {outputs}] or [batch, S, {outputs}], got {shape}")
    if rows.dim() == 3 and len(rows) not in (1, batch):
        raise InputError(f"C has rows for {len(rows)} examples, x has {batch}")
    if not bool(rows.isfinite().all()):
        raise InputError("C has NaN or infinite values")
    return rows if rows.dim() == 3 else rows.unsqueeze(0)


def query_about(graph: Graph, inputs: InputSet, rows: Tensor) -> Query:  # [B, S, entries of the output]
    """The rows of a graph's output, to be bounded from below: no question with an answer."""
    rows = rows.expand(inputs.batch, -1, -1)
    offset = rows.new_zeros(rows.shape[:2])
    return Query.of(graph, inputs, Specification(rows, offset, torch.arange(rows.shape[1], device=rows.device)))


def read_by(graph: Graph, nodes: Mapping[int, Tensor | None]) -> list[int]:
    """What the activations read all of whose entries are asked for: its bounds, and a range, bound those best."""
    whole = (graph.nodes[i] for i, rows in nodes.items() if rows is None)
    return [node.parents[0] for node in whole if isinstance(node.op, Activation)]
