"""Clean, attacked and verified accuracy of a network under training, by the verifier's own cascade."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from properties import Perturbation, robustness
from training.modes import evaluated
from training.network import NetworkInTraining
from verifier.arithmetic import precise_arithmetic
from verifier.attacks import PGD, Attack
from verifier.attacks.msd import members_of
from verifier.attacks.problem import AttackProblem
from verifier.budget import Budget
from verifier.cascade import Cascade
from verifier.judge import ModelJudge
from verifier.policy import Ladder
from verifier.query import Query
from verifier.stages import Stage, stage
from verifier.verdict import Verdict


@dataclass(frozen=True)
class Accuracy:
    """Shares of the examples, 0 to 1: verified <= attacked <= clean."""

    clean: float
    attacked: float  #: classified rightly, and not broken by the attack
    verified: float  #: proved by the stages

    def of(self, goal: str) -> float:
        """One of the three by name."""
        return float(getattr(self, goal))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How a network is measured while it trains.

    Args:
        perturbation: what the network is measured against.
        stages: names of the stages that prove; cheap ones, as a rule. None prove nothing.
        attack: an attack on the examples that are right and not proved.
        batch: examples at once.
    """

    perturbation: Perturbation
    stages: tuple[str, ...] = ("interval", "dual")
    attack: Attack = PGD(steps=20, restarts=2)
    batch: int = 500

    def of(self, network: NetworkInTraining, images: Tensor, labels: Tensor) -> Accuracy:
        """Measure on N images [N, *input], labels [N] int64. Deterministic; gradients and modes are left alone."""
        counts = torch.zeros(3, dtype=torch.int64)
        stages = [stage(name) for name in self.stages]  # once: some keep what they find about a network
        with evaluated(network.model), precise_arithmetic():
            for x, label in zip(images.split(self.batch), labels.split(self.batch), strict=True):
                counts += self._batch(network, x, label, stages)
        return Accuracy(*(counts.double() / max(1, len(labels))).tolist())

    def _batch(self, network: NetworkInTraining, x: Tensor, label: Tensor, stages: list[Stage]) -> Tensor:
        """How many of the images x [B, *input] are right, stand the attack, are verified: [3]."""
        x, label = x.to(network.device), label.to(network.device)
        graph = network.measured().to(network.device)  # detached: nothing here needs gradients of the weights
        with torch.no_grad():
            right = (graph.forward(x).flatten(1).argmax(1) == label).nonzero().squeeze(1)
        if len(right) == 0:
            return torch.zeros(3, dtype=torch.int64)
        inputs = self.perturbation.around(x[right])
        query = Query.of(graph, inputs, robustness(label[right], network.classes))
        proved = torch.stack([_proved(replace(query, inputs=member), stages) for member in members_of(inputs)]).all(0)
        left = (~proved).nonzero().squeeze(1)
        broken = 0
        if len(left):
            found = self.attack.run(AttackProblem.of(query).select(left), torch.Generator().manual_seed(0))
            broken = int((found.value < 0).sum())
        return torch.tensor([len(right), len(right) - broken, int(proved.sum())])


def _proved(query: Query, stages: list[Stage]) -> Tensor:  # [B] bool
    if not stages:
        return torch.zeros(query.batch, dtype=torch.bool, device=query.open.device)
    precise = query.graph.to(dtype=torch.float64)

    def replay(x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        return precise.forward(x.to(query.open.device)).flatten(1)

    ladder = Ladder(stages, adapts=False)
    with torch.no_grad():
        judge = ModelJudge(replay, query.graph.dtype)
        outcome = Cascade(ladder, judge, original=query.graph).run(query, Budget())
    return torch.tensor([e.verdict is Verdict.VERIFIED for e in outcome.examples], device=query.open.device)
