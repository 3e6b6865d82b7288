"""The oracle's tiny networks as torch modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.oracle import AffineStep, MaxStep, PiecewiseStep, ReluStep, TinyNetwork


class TinyModule(nn.Module):
    """A TinyNetwork in torch, step by step, in float64."""

    def __init__(self, network: TinyNetwork) -> None:
        super().__init__()
        self.network = network
        self.linears = nn.ModuleDict()
        for i, step in enumerate(network.steps, 1):
            if not isinstance(step, AffineStep):
                continue
            for k, (_, matrix) in enumerate(step.terms):
                linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=k == 0).double()
                with torch.no_grad():
                    linear.weight.copy_(torch.from_numpy(matrix))
                    if k == 0:
                        linear.bias.copy_(torch.from_numpy(step.bias))
                self.linears[f"{i}_{k}"] = linear

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for i, step in enumerate(self.network.steps, 1):
            if isinstance(step, AffineStep):
                terms = [self.linears[f"{i}_{k}"](values[p]) for k, (p, _) in enumerate(step.terms)]
                total = terms[0]
                for term in terms[1:]:
                    total = total + term
                values.append(total)
            else:
                values.append(nonlinear(step, values[step.parent]))
        return values[-1]


def nonlinear(step: ReluStep | PiecewiseStep | MaxStep, z: Tensor) -> Tensor:
    """A nonlinear step by the torch function that computes it; leaky ReLU and hardtanh are the only polylines."""
    if isinstance(step, ReluStep):
        return torch.relu(z)
    if isinstance(step, MaxStep):
        return nn.functional.max_pool1d(z.unsqueeze(1), step.width).squeeze(1)
    if len(step.kinks) == 1:
        return nn.functional.leaky_relu(z, step.slopes[0])
    return nn.functional.hardtanh(z, *step.kinks)
