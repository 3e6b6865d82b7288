"""Training against the semidefinite certificate: Raghunathan, Steinhardt & Liang (2018), section 4."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from properties.device import sent
from training.lanczos import top_eigenvectors
from training.margin_loss import error_at, hinge_loss
from training.method import BatchLoss, Progress, TrainingMethod, TrainingRun, register
from training.network import NetworkInTraining
from training.schedule import Decayed, Rate
from training.sdp_dual import PairMatrices, certificates_from_duals, dual_value, slopes, starting_duals
from verifier.errors import ModelError
from verifier.sdp import SdpBounds

#: length of the noise in a start of Lanczos: no direction of space is without a share in it
_NOISE = 0.1


@register
@dataclass(frozen=True, kw_only=True)
class SdpTraining(TrainingMethod):
    """Hinge loss plus the dual of the semidefinite bound, for networks with one activation layer: eq. 15.

    The loss is the multiclass hinge loss of the batch plus

        sum over pairs of classes i < j of lambda_ij [D lambda_max^+(M_ij - diag c_ij) + 1^T max(c_ij, 0)],

    D = 1 + m + n for m neurons and n inputs; the dual variables c_ij are trained along with the weights, and with
    eps / 4 times the bracket no margin f_i - f_j moves further within eps (eq. 16). A step draws a class and takes the
    pairs that it is in, with the factor that makes the mean over the draws the whole sum.

    lambda_ij = lambda * w_ij, and w_ij, which sum to one, are the share of training images for which pair (i, j) is
    the maximum of eq. 12. They begin equal. With lambda = eps / 4 the sum would be what the certified margin loses, on
    average. The paper's lambda of 0.05 at eps 0.1 is 0.01 here: its steps take the drawn pairs with no factor, and each
    pair is drawn in two of ten steps. The network that its authors published says the same: with 0.0100 the hinge loss
    and the penalty pull the scale of its outputs equally (benchmarks/raghunathan_training.py).

    The figures of the log: `error`; `sdp_error`, the share of images that eq. 16 does not certify with the present c
    and with eigenvalues from the last time that each pair was drawn (an estimate); `sdp_reach`, the mean over the pairs
    of how far a margin may move.

    Args:
        weight: lambda; default eps / 10, as in the paper at its eps of 0.1; it follows the radius.
        reweigh: epochs between two updates of w, from the counts of the last of them.
        refresh: epochs between two fresh starts of all dual variables, from a short ascent of the relaxation
            (`starting_duals`), since steps of 1e-3 leave them behind the weights. 0: never after the first, as in the
            paper.
        lanczos: products per eigenvector.

    Measuring by stage "sdp" solves a semidefinite program for each pair of classes (with 500 neurons about a second
    each): measure every few epochs only.
    """

    name: ClassVar[str] = "sdp"
    stages: ClassVar[tuple[str, ...]] = ("sdp",)

    rate: Rate = Decayed(factor=0.1, times=3, after=0.0)
    weight: float | None = None
    reweigh: int = 20
    refresh: int = 1
    lanczos: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threat != "linf":
            raise ValueError(
                f"this method bounds the movement within l-infinity balls, not {self.threat!r}: use linf, or train by "
                "dual, ibp or adversarial"
            )
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"weight must be a number >= 0, got {self.weight}")
        for name, least in (("reweigh", 1), ("refresh", 0), ("lanczos", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def strength(self) -> float:
        """lambda."""
        return self.eps / 10 if self.weight is None else self.weight

    @classmethod
    def example(cls) -> tuple[TrainingMethod, nn.Module]:
        return cls(eps=0.05, batch=4, reweigh=1), nn.Sequential(
            nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)
        )

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> SdpRun:
        return SdpRun(self, network, generator)


class SdpRun(TrainingRun):
    """The run: dual variables, eigenvectors, bounds and weights of all pairs of classes."""

    method: SdpTraining

    def __init__(self, method: SdpTraining, network: NetworkInTraining, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        slopes(network.graph)  # says so where this is no network for this method
        classes, device = network.classes, network.device
        if classes < 2:
            raise ModelError("a network with one output has no pairs of classes to bound")
        pairs = list(itertools.combinations(range(classes), 2))
        self.pairs = torch.tensor(pairs, device=device)  # [P, 2]
        # the pairs that each class is in, and which pair two classes are (0 for a class and itself)
        self.of_class = [[p for p, pair in enumerate(pairs) if i in pair] for i in range(classes)]
        self.places = torch.tensor(self.of_class, device=device)  # [classes, classes - 1]
        self.index = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self.index[self.pairs[:, 0], self.pairs[:, 1]] = torch.arange(len(pairs), device=device)
        self.index = self.index + self.index.T
        units = torch.eye(classes, dtype=network.dtype, device=device)
        self.rows = units[self.pairs[:, 0]] - units[self.pairs[:, 1]]  # [P, classes]
        duals = self._fresh_duals()
        # tensors of their own: Adam leaves those without a gradient, of pairs that were not drawn, where they are
        self.duals = [c.clone().requires_grad_() for c in duals]
        self.vectors = F.normalize(torch.randn(duals.shape, generator=generator, dtype=torch.float64), dim=1).to(duals)
        self.weights = torch.full_like(self.rows[:, 0], 1 / len(pairs))
        self.counts = torch.zeros_like(self.weights)
        self.values = torch.zeros_like(self.weights)
        with torch.no_grad():
            self._bracket(list(range(len(pairs))), torch.arange(len(pairs), device=device))

    def doubts(self, epochs: int) -> Iterator[str]:
        if epochs <= self.method.reweigh:
            yield (
                f"the weights of the pairs of classes are set anew every {self.method.reweigh} epochs, and the run has "
                f"{epochs}: they stay equal, which the paper found worse. Give more epochs, or a smaller `reweigh`"
            )

    def _fresh_duals(self) -> Tensor:  # [P, 1 + m + n]
        return starting_duals(self.network.graph, self.rows, self.generator).to(self.rows)

    def parameters(self, progress: Progress) -> list[Tensor]:  # [...] each
        return [*super().parameters(progress), *self.duals]

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        with self.network.on_batch(x):
            return self._loss(x, label)

    def _loss(self, x: Tensor, label: Tensor) -> BatchLoss:  # [B, *input], [B]
        outputs = self.network(x)
        others = outputs.scatter(1, label.unsqueeze(1), -torch.inf)
        hinge = hinge_loss(outputs, label).mean()
        drawn = int(torch.randint(len(self.of_class), (), generator=self.generator))
        index = self.places[drawn]
        # every pair is drawn with probability 2 / classes
        scale = self.method.strength * len(self.of_class) / 2
        penalty = scale * (self.weights[index] * self._bracket(self.of_class[drawn], index)).sum()
        with torch.no_grad():
            figures = self._figures(others, outputs, label)
        return BatchLoss(hinge + penalty, figures)

    def _bracket(self, pairs: list[int], chosen: Tensor) -> Tensor:  # [k] -> [k]
        """What lambda_ij multiplies in eq. 15, for some pairs; their eigenvectors and values are kept.

        Args:
            pairs, chosen: the same k numbers, here and on the device.
        """
        noise = torch.randn(len(pairs), self.vectors.shape[1], generator=self.generator, dtype=torch.float64)
        matrices = PairMatrices.of(self.network.graph, self.rows[chosen])
        c = torch.stack([self.duals[i] for i in pairs])
        start = self.vectors[chosen] + _NOISE * F.normalize(sent(noise, self.vectors.device), dim=1).to(self.vectors)
        fixed = c.detach()
        y = top_eigenvectors(lambda z: matrices.times(z) - fixed * z, start, self.method.lanczos)[1]
        value = dual_value(matrices, c, y)
        self.vectors[chosen], self.values[chosen] = y, value.detach()
        return value

    def _figures(self, others: Tensor, outputs: Tensor, label: Tensor) -> dict[str, Tensor]:  # [B, classes] each, [B]
        """The log's figures; and counts which pair was the maximum of eq. 12."""
        pair = self.index[label]  # [B, classes]
        reach = self.method.eps / 4 * self.values
        bound = others - outputs.gather(1, label.unsqueeze(1)) + reach[pair]
        worst, other = bound.max(1)
        maximum = pair.gather(1, other.unsqueeze(1)).squeeze(1)
        self.counts += (maximum.unsqueeze(1) == torch.arange(len(self.pairs), device=pair.device)).sum(0)
        return {
            "error": error_at(outputs, label),
            "sdp_error": (worst >= 0).float().mean(),
            "sdp_reach": reach.mean(),
        }

    def epoch_ended(self, progress: Progress) -> str | None:
        if (progress.epoch + 1) % self.method.reweigh == 0:
            # one more for each: the dual variables of a pair that nobody met still have to follow the weights
            self.weights = (self.counts + 1) / (self.counts + 1).sum()
        self.counts = torch.zeros_like(self.counts)
        if self.method.refresh and (progress.epoch + 1) % self.method.refresh == 0:
            self._take_over(self._fresh_duals())
        return None

    @torch.no_grad()
    def _take_over(self, duals: Iterable[Tensor]) -> None:  # [1 + m + n] each
        """New values of the dual variables, in place: the optimiser holds these tensors."""
        for c, value in zip(self.duals, duals, strict=True):
            c.copy_(value)

    def certificates(self) -> SdpBounds:
        """Certificates of all pairs from the present weights and dual variables, no semidefinite program solved.

        `SdpStage.use` takes them.
        """
        return certificates_from_duals(self.network.graph, self.rows, torch.stack(self.duals))

    def state(self) -> dict[str, Any]:
        names = ("vectors", "weights", "counts", "values")
        return {"duals": [c.detach() for c in self.duals], **{name: getattr(self, name) for name in names}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._take_over(state["duals"])
        for name, kept in state.items():
            if name != "duals":
                setattr(self, name, kept.to(getattr(self, name)))
