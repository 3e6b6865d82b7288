"""Hinge loss with a penalty on the layers' norms: Raghunathan, Steinhardt and Liang (2018), sections 5 and 6."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from training.lanczos import top_eigenvectors
from training.margin_loss import error_at, hinge_loss
from training.method import BatchLoss, Progress, TrainingMethod, TrainingRun, register
from training.network import NetworkInTraining
from training.weights import matrices
from verifier.errors import ModelError

NORMS = ("frobenius", "spectral")
#: products with W^T W per step that follow the largest singular vector from step to step
_PRODUCTS = 4


@register
@dataclass(frozen=True, kw_only=True)
class NormTraining(TrainingMethod):
    """Multiclass hinge loss at the clean inputs + weight * the sum over the layers of a norm of their weights.

    Fro-NN and Spe-NN of Raghunathan et al. (2018), figure 2: what the bounds of eq. 17 and 18 (stages "spectral" and
    "frobenius") are made of is kept small. Their weights are 0.08 with "frobenius" and 0.09 with "spectral"; they found
    neither norm to help against attacks. A convolution's matrix has a row for each filter. `eps` says only at which
    radius the network is measured.

    Args:
        norm: "frobenius" or "spectral"; the latter by products with a vector that is kept for each layer.
        weight: of the penalty (lambda).
    """

    name: ClassVar[str] = "norms"
    goal: ClassVar[str] = "attacked"

    norm: str = "frobenius"
    weight: float = 0.08

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in NORMS:
            raise ValueError(f"no norm is called {self.norm!r}; there are: {', '.join(NORMS)}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be a number >= 0, got {self.weight}")

    def begin(self, network: NetworkInTraining, generator: torch.Generator) -> TrainingRun:
        return NormRun(self, network, generator)


class NormRun(TrainingRun):
    """A run that follows the largest singular vector of each layer."""

    method: NormTraining

    def __init__(self, method: NormTraining, network: NetworkInTraining, generator: torch.Generator) -> None:
        super().__init__(method, network, generator)
        layers = matrices(network.graph)
        if not layers:
            raise ModelError("the model has no layer with a matrix of weights, whose norm could be penalised")
        self.vectors = [
            F.normalize(torch.randn(1, w[0].numel(), generator=generator, dtype=torch.float64), dim=1).to(w)
            for w in layers
        ]

    def loss(self, x: Tensor, label: Tensor, progress: Progress) -> BatchLoss:  # [B, *input], [B]
        outputs, norms = self.network(x), torch.stack(self.norms())
        value = hinge_loss(outputs, label).mean() + self.method.weight * norms.sum()
        return BatchLoss(value, {"error": error_at(outputs, label), "norms": norms.detach().sum()})

    def norms(self) -> list[Tensor]:
        """The norm of every layer's matrix, each a scalar; the spectral one from below, at a vector held fixed."""
        layers = [w.flatten(1) for w in matrices(self.network.graph)]
        if self.method.norm == "frobenius":
            return [matrix.norm() for matrix in layers]
        for k, matrix in enumerate(m.detach() for m in layers):
            self.vectors[k] = top_eigenvectors(partial(_squared, matrix), self.vectors[k], _PRODUCTS)[1]
        return [(m @ v.squeeze(0)).norm() for m, v in zip(layers, self.vectors, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"vectors": self.vectors}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.vectors = [kept.to(now) for kept, now in zip(state["vectors"], self.vectors, strict=True)]


def _squared(matrix: Tensor, z: Tensor) -> Tensor:  # [r, c], [S, c] -> [S, c]
    """Products of vectors with W^T W."""
    return z @ matrix.T @ matrix
