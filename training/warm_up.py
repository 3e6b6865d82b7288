"""What interval training adds to its loss while the radius grows: the regularisers of Shi et al. (2021), section 4.3.

Both look at the ranges before the activations of one batch, and are zero where a layer is as it should be.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.interval_loss import IntervalPass
from verifier.graph import Graph
from verifier.ops.relu import ReLU


def warm_up_penalty(graph: Graph, passed: IntervalPass, tolerance: float) -> Tensor:  # []
    """The mean over the layers before activations of (tolerance - ratio)+ / tolerance, summed over three ratios.

    - Tightness: mean radius of the input's ranges over the layer's: ranges should not be wider than those of the input
      by more than 1 / tolerance.
    - Balance, before ReLUs: the centers of active neurons in total over those of inactive ones, and the same of their
      squared distances from the layer's mean; or the inverse, where that is smaller. Without it, tightness is bought by
      neurons that are dead. Layers where no neuron is active, or none inactive, have no such ratio.

    Args:
        graph: that the pass went through. passed: of a batch.
    """
    width = _radius(passed.ranges[0]).mean()
    layers = [node for node in graph.pre_activations if node != 0]
    before_relu = {graph.nodes[i].parents[0] for i in graph.activations if isinstance(graph.nodes[i].op, ReLU)}
    terms = [width.new_zeros(())]
    for node in layers:
        tiny = torch.finfo(width.dtype).tiny
        ratios = [width / _radius(passed.ranges[node]).mean().clamp(min=tiny)]
        if node in before_relu:
            ratios += _balance(*passed.ranges[node], tolerance)
        terms += [F.relu(tolerance - ratio) / tolerance for ratio in ratios]
    return torch.stack(terms).sum() / max(len(layers), 1)


def _radius(ends: tuple[Tensor, Tensor]) -> Tensor:  # [B, *shape] each -> [B, *shape]
    return (ends[1] - ends[0]) / 2


def _balance(lower: Tensor, upper: Tensor, enough: float) -> list[Tensor]:  # [B, *shape] each
    """Ratios of active to inactive neurons, each at most 1; `enough` where one kind is missing."""
    center = (lower + upper) / 2
    spread = (center - center.mean()).square()
    active, inactive = (lower > 0).to(center), (upper < 0).to(center)
    parts = [(value * active).sum().abs() for value in (center, spread)]
    others = [(value * inactive).sum().abs() for value in (center, spread)]
    ratios = []
    for a, b in zip(parts, others, strict=True):
        both = (a > 0) & (b > 0)  # not asked for as a truth value: a device would be waited for
        a, b = (torch.where(both, part, 1.0) for part in (a, b))  # no gradient of what is missing
        ratios.append(torch.where(both, torch.minimum(a / b, b / a), enough))
    return ratios
