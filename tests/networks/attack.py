"""What is possible on a box, by plain torch and nothing of the product: samples, corners and steps along gradients."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

SAMPLES, STEPS, ROWS = 500, 8, 3


def margin_rows(outputs: int, label: int) -> Tensor:  # [outputs - 1, outputs]
    """Output of the label less each other output."""
    unit = torch.eye(outputs, dtype=torch.float64)
    return torch.stack([unit[label] - unit[other] for other in range(outputs) if other != label])


def evaluated(model: nn.Module, points: Tensor) -> Tensor:  # [N, *shape] -> [N, outputs]
    """One point at a time, as far as the model can see: one that mixes its batch cannot hide that."""

    def alone(point: Tensor) -> Tensor:  # [*shape] -> [outputs]
        return model(point.unsqueeze(0)).reshape(-1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that torch maps one by one
        try:
            return torch.func.vmap(alone)(points)
        except RuntimeError:  # recurrent layers, and what draws random numbers in training, cannot be mapped
            return torch.stack([alone(point) for point in points])


def least_margins(
    model: nn.Module, x: Tensor, eps: float, rows: Tensor, offset: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:  # x [1, *shape], rows [S, outputs], offset [S] -> [S] twice
    """The least value of each row rows @ y + offset over points of the box around x, and how exact it is.

    The model runs in float64; the second answer allows for what its rounding, and that of eps, may do.
    """
    model, centre = model.double(), x.double()

    def values(points: Tensor) -> Tensor:  # [N, *shape] -> [N, S]
        return evaluated(model, points) @ rows.T + offset

    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand((SAMPLES, *x.shape[1:]), generator=generator, dtype=torch.float64) - 1
    noise[::2] = noise[::2].sign()  # corners
    with torch.no_grad():
        every = values(centre + eps * noise)
    least = every.min(0).values
    aims = torch.arange(min(len(rows), ROWS))  # one point for each of these rows, all moved at once
    points = centre + eps * noise[every[:, aims].argmin(0)]
    for step in range(STEPS + 1):
        points.requires_grad_()
        reached = values(points)
        least = torch.minimum(least, reached.detach().min(0).values)
        mine = reached[aims, aims].sum()
        (slope,) = torch.autograd.grad(mine, points, allow_unused=True, materialize_grads=True)
        moved = points.detach() - 2 * eps / (1 + step) * slope.sign()
        points = torch.minimum(torch.maximum(moved, centre - eps), centre + eps)
    return least, 1e-9 * (1 + every.abs().max(0).values)
