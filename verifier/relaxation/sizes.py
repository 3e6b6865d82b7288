"""How large condensed networks and the tensors of ascents on them become, and which examples are worked on together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bound_map import Bounds
from verifier.device import working_memory
from verifier.ops.product import Product
from verifier.query import Query
from verifier.relaxation.activations import activation_over
from verifier.relaxation.plan import PassPlan

#: tensors of the rows' size that are alive at once in an ascent
_COPIES = 8

#: how much larger padding may make the networks of a group than they are, and bytes below which it does not matter
_PADDED, _LITTLE = 2.0, 2**28


def condensed_size(query: Query, bounds: Bounds) -> int:
    """Numbers in the condensed network and in the largest tensors of an ascent on it."""
    return query.batch * int(size_of(query, unknown_counts(query, bounds).amax(0, keepdim=True)))


def unknown_counts(query: Query, bounds: Bounds) -> Tensor:
    """Per example and activation, the neurons that ask for a relaxation and those that are unknowns: [B, A, 2].

    On the CPU: they say how large tensors become.
    """
    counts = []
    for i in query.graph.activations:
        op, lower, upper = activation_over(query.graph, bounds, i)
        reads = op.unstable(lower, upper).flatten(1).sum(1)
        counts.append(torch.stack([reads, op.varies(lower, upper).sum(1) if isinstance(op, Product) else reads], 1))
    return torch.stack(counts, 1).cpu() if counts else torch.zeros(query.batch, 0, 2, dtype=torch.int64)


def size_of(query: Query, counts: Tensor) -> Tensor:  # [B, A, 2] -> [B]
    """Numbers in a condensed network of so many unknowns, and in the largest tensors of an ascent on it."""
    width = torch.full((len(counts),), query.graph.nodes[0].size)
    total, most = torch.zeros_like(width), torch.full_like(width, query.open.shape[1])
    for reads, count in (of.unbind(1) for of in counts.unbind(1)):
        total, width, most = total + torch.maximum(reads, count) * width, width + count, torch.maximum(most, 2 * reads)
    return total + _COPIES * most * width


def whole_size(query: Query) -> int:
    """Numbers in the tensors of an ascent on the whole network."""
    sizes = [2 * math.prod(query.graph.ports(i)) for i in query.graph.activations]
    return query.batch * _COPIES * query.open.shape[1] * sum(sizes)


def together(query: Query, memory: int) -> int:
    """Examples whose neurons are bounded at once by stages that ascend: at least 1.

    Ascents amplify roundings, and products of padded matrices round otherwise than those of an example alone. On a CPU
    one example's rows fill a core's caches: one at a time, no result depends on its batch at all. An accelerator is
    idle with one; there an example's result is independent of its batch up to rounding.
    """
    device = query.open.device
    return 1 if device.type == "cpu" else PassPlan(query.graph, working_memory(device, memory), device).examples


@dataclass(frozen=True)
class Group:
    """Examples of a query whose condensed networks are padded to one size and worked on at once."""

    examples: list[int]
    fits: bool  #: False: one example whose condensed network has no room


def groups(query: Query, bounds: Bounds, memory: int) -> list[Group]:
    """All examples, those of like size together, as many as the device has room for.

    Args:
        bounds: of every pre-activation. memory: bytes that the network of one example may take, on any device.
    """
    counts, itemsize = unknown_counts(query, bounds), query.graph.dtype.itemsize
    alone = size_of(query, counts) * itemsize
    fits = alone <= memory
    found = [Group([i], False) for i in (~fits).nonzero().flatten().tolist()]
    order = [i for i in alone.argsort(descending=True, stable=True).tolist() if fits[i]]
    most = memory if query.open.device.type == "cpu" else working_memory(query.open.device, memory)
    mine, largest, own = list[int](), counts[:0], 0.0
    for i in order:
        wider = torch.cat([largest, counts[i : i + 1]]).amax(0, keepdim=True)
        padded = (len(mine) + 1) * itemsize * float(size_of(query, wider))
        if mine and padded > min(most, max(_LITTLE, _PADDED * (own + float(alone[i])))):
            found.append(Group(sorted(mine), True))
            mine, wider, own = [], counts[i : i + 1], 0.0
        mine, largest, own = [*mine, i], wider, own + float(alone[i])
    return [*found, Group(sorted(mine), True)] if mine else found
