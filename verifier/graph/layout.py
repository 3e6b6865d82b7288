"""Where the batch lies in a value of a traced program: mostly in front, sometimes elsewhere.

Sequence-first layouts, stacks of models and attention heads move the batch about and bring it back. A value is then
known by the node that holds it for one example and by how a batch of them is laid out: along dimension `dim`, which
counts `outer` groups of the batch, each entry `inner` times over, example b of the batch in [g, b, i] of
[outer, B, inner].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.graph.emitter import Var
from verifier.ops.base import Shape


@dataclass(frozen=True)
class Layout:
    """The batch's place: dimension `dim` of a value has size outer * B * inner."""

    dim: int
    outer: int = 1
    inner: int = 1

    @property
    def plain(self) -> bool:
        """The batch alone is dimension 0."""
        return self.dim == 0 and self.outer == self.inner == 1


@dataclass(frozen=True)
class Laid:
    """A value whose batch is not dimension 0: the node has the shape that the value has with a batch of one."""

    var: Var
    layout: Layout


def entry_numbers(shape: Shape, layout: Layout, batch: int) -> Tensor:
    """A number for every entry of a value, b * size + (its place in the node of example b), as float64.

    Args:
        shape: of the value with a batch of one.

    Returns:
        [*shape of the value], float64, so that operators for numbers take it.
    """
    size = int(torch.Size(shape).numel())
    before, after = shape[: layout.dim], shape[layout.dim + 1 :]
    index = torch.arange(size, dtype=torch.float64).reshape(*before, layout.outer, 1, layout.inner, *after)
    owner = torch.arange(batch, dtype=torch.float64).reshape(batch, *(1,) * (1 + len(after)))
    return (index + owner * size).reshape(*before, layout.outer * batch * layout.inner, *after)


def found_layout(numbers: Tensor, batch: int, size: int) -> tuple[Layout, Tensor] | None:
    """Where the batch is, and the entries [*shape with a batch of one] that every example has; None where they mix.

    Args:
        numbers: [*shape of the value] int64, of entries as `entry_numbers` has them.
    """
    if numbers.dim() == 0 or numbers.numel() == 0:
        return None
    if batch == 1:  # one example cannot mix with another: any dimension will do
        return Layout(0, len(numbers)), numbers
    owner = numbers // size
    for dim in range(numbers.dim()):
        along = owner.movedim(dim, 0).reshape(owner.shape[dim], -1)
        if not bool((along == along[:, :1]).all()):
            continue
        line = along[:, 0]
        changes = (line != line[0]).nonzero()
        inner = int(changes[0]) if len(changes) else 0
        if not inner or len(line) % (batch * inner):
            return None
        if not torch.equal(line, torch.arange(len(line)) // inner % batch):
            return None
        outer = len(line) // (batch * inner)
        entries = (numbers % size).unflatten(dim, (outer, batch, inner))
        first = entries.select(dim + 1, 0)
        if not bool((entries == first.unsqueeze(dim + 1)).all()):
            return None
        return Layout(dim, outer, inner), first.flatten(dim, dim + 1)
    return None


def of_one_example(value: Tensor, dim: int, layout: Layout, batch: int) -> Tensor | None:
    """A constant [*shape] whose dimension `dim` runs along the batch, for one example; None where examples differ."""
    dim %= value.dim()
    if value.shape[dim] == 1 or batch == 1:
        return value
    if value.shape[dim] != layout.outer * batch * layout.inner:
        return None
    parts = value.unflatten(dim, (layout.outer, batch, layout.inner))
    first = parts.select(dim + 1, 0)
    return first.flatten(dim, dim + 1) if bool((parts == first.unsqueeze(dim + 1)).all()) else None
