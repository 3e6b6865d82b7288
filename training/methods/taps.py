"""Intervals through the first layers, an attack through the last: TAPS and STAPS (Mao et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from properties import Box, robustness
from training.margin_loss import error_of
from training.method import BatchLoss, TrainingRun, register
from training.methods.sabr import SmallBoxes, SmallBoxRun
from training.network import NetworkInTraining
from verifier.attacks import PGD, AttackProblem, MarginLoss, Random
from verifier.attacks.losses import cross_entropy
from verifier.errors import ModelError
from verifier.graph import Graph
from verifier.graph.cuts import cuts
from verifier.ops.base import Activation


@register
@dataclass(frozen=True, kw_only=True)
class TapsTraining(SmallBoxes):
    """The product of two losses: at attacked points of a box before the last layers, and at worst margins by intervals.

    Mao et al. (2023), Connecting certified and adversarial training. Intervals carry the set to a box in front of the
    network's last layers; there, for each wrong class, an attack finds a point of the box of lowest margin. Intervals
    are too wide, most of all in the last layers, and an attack sees too little: their errors are of opposite sign.
    Gradients reach the box through a connector: an entry of a point that lies within `connect` of the box's width from
    one of its ends moves with that end, the more the nearer it is.

    With share = 1 it is TAPS; with less, the box begins as SABR's small one around an adversarial point: STAPS.

    Args:
        layers: activation layers behind the cut, whose outputs are attacked; 1 or 2 in the paper.
        estimator_steps, estimator_step: of the attacks on the box, as `attack_steps` and `attack_step`.
        connect: the connector's c, 0 < connect <= 0.5.
        weight: gradient of the attacked loss relative to that of the interval loss in their product (the paper's 5).
    """

    name: ClassVar[str] = "taps"

    share: float = 1.0
    layers: int = 1
    estimator_steps: int = 8
    estimator_step: float = 0.5
    connect: float = 0.5
    weight: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")
        if not 0 < self.connect <= 0.5 or not 0 < self.weight < math.inf:
            raise ValueError(
                f"connect must be in (0, 0.5] and weight a number > 0, got {self.connect} and {self.weight}"
            )
        self.estimator()

    def estimator(self) -> PGD:
        """What attacks the box in front of the last layers."""
        return PGD(
            self.estimator_steps, 1, self.estimator_step, MarginLoss(), first=Random(), momentum=0.0, stop=-math.inf
        )  # fmt: skip

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _Taps(self, network, generator)


class _Taps(SmallBoxRun):
    method: TapsTraining

    def __init__(self, method: TapsTraining, network: NetworkInTraining, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        self.cut = cut_before(network.graph, method.layers)

    def robust(self, x: Tensor, label: Tensor, grown: float) -> BatchLoss:  # [B, *input], [B]
        method, radius = self.method, self.method.radius(grown)
        box = method.sets(x, radius) if method.share == 1 else self.region(x, label, radius)[0]
        passed = self.bounds(box, label)
        margins = self.attacked_margins(*passed.ranges[self.cut], label)
        attacked = cross_entropy(margins)
        # the gradient is weight * attacked' * interval + attacked * interval'
        attacked = attacked.detach() + method.weight * (attacked - attacked.detach())
        loss = self.figures(attacked * cross_entropy(passed.margins), passed.margins)
        return self.named(self.regularised(loss, passed, grown), error_of(margins.detach()))

    def attacked_margins(self, lower: Tensor, upper: Tensor, label: Tensor) -> Tensor:
        """For each wrong class, its margin at the point of the box [lower, upper] that is worst for it.

        Args:
            lower, upper: [B, *shape of the cut]. label: [B].

        Returns:
            [B, classes - 1], whose gradient reaches the box through the connector.
        """
        count, others = len(label), self.network.classes - 1
        example = torch.arange(count, device=label.device).repeat_interleave(others)
        clause = torch.arange(others, device=label.device).repeat(count)
        ends = lower[example], upper[example]
        spec = robustness(label[example], self.network.classes)
        problem = AttackProblem(
            lambda z: self.network.graph.forward_from(self.cut, z), Box(*(end.detach() for end in ends)), spec,
            self.network.dtype, clause,
        )  # fmt: skip
        point = self.method.estimator().run(problem, self.generator).points
        margins = problem.clauses(connected(*ends, point, self.method.connect))
        return margins.gather(1, clause.unsqueeze(1)).reshape(count, others)


def connected(lower: Tensor, upper: Tensor, point: Tensor, share: float) -> Tensor:  # [B, *shape] each
    """Points of boxes with gradients in the boxes' ends: the rectified linear gradient connector (section 3.3).

    The gradient in an end is 1 where the point lies at it, falls linearly, and is 0 further away than `share` of the
    box's width; where the box has no width, half for each end.
    """
    low, high, point = lower.detach(), upper.detach(), point.detach()
    reach = share * (high - low)
    flat = reach <= 0
    scale = torch.where(flat, 1.0, reach)
    to_low = torch.where(flat, 0.5, ((low + reach - point) / scale).clamp(0, 1))
    to_high = torch.where(flat, 0.5, ((point - high + reach) / scale).clamp(0, 1))
    return point + to_low * (lower - low) + to_high * (upper - high)


def cut_before(graph: Graph, layers: int) -> int:
    """The last activation that everything behind it reads the input through, with so many activation nodes behind it.

    Raises:
        ModelError: there is none.
    """
    for node in cuts(graph):
        behind = [i for i in graph.activations if i > node and i not in graph.ancestors[node]]
        if isinstance(graph.nodes[node].op, Activation) and len(behind) >= layers:
            return node
    raise ModelError(
        f"this network has no activation layer with {layers} more behind it that read the input through it alone: "
        'set fewer layers, or use method "sabr"'
    )
