"""Training on adversarial points of every member of a union: PGD-Aug (Wong 2020, section 5.3.1, eq. 5.32)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from properties import robustness
from training.margin_loss import error_at
from training.method import BatchLoss, TrainingRun, register
from training.methods.adversarial import AdversarialTraining, MixedWithClean
from training.modes import evaluated
from training.network import NetworkInTraining
from verifier.attacks.msd import members_of


@register
@dataclass(frozen=True, kw_only=True)
class AugmentedTraining(AdversarialTraining):
    """The mean over the members of a union of the cross-entropy at the points that an attack on each of them finds.

    Wong (2020), section 5.3.1, eq. 5.32; Tramer and Boneh (2019) call it the average strategy. With a threat model that
    is no union it is adversarial training. The thesis's other two ways of training against a union are
    `adversarial` with attack "max" (the worst point) and "msd".
    """

    name: ClassVar[str] = "augmented"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest is not None:
            raise ValueError('radii that grow are for one set at a time: use method "adversarial" for smallest')

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return _OnMembers(self, network, generator, self.made())


class _OnMembers(MixedWithClean):
    """A run on as many points of each image as the union has members."""

    def adversarial(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        points = self.of_members(x, label)
        labels = label.repeat(len(points))
        outputs = self.network(torch.cat(points))
        return BatchLoss(F.cross_entropy(outputs, labels), {"error": error_at(outputs, labels)})

    def of_members(self, x: Tensor, label: Tensor) -> list[Tensor]:  # [B, *input], [B] -> [B, *input] each
        """Adversarial points of every member of the union."""
        spec, network = robustness(label, self.network.classes), self.network
        with evaluated(network.model):
            return [
                self.attack.perturb(network, member, spec, self.generator, network.dtype)
                for member in members_of(self.sets(x))
            ]
