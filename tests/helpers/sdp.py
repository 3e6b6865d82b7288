"""Networks of two layers, and exact judges of what is proved of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn

from verifier.graph import Graph
from verifier.graph.torch_import import import_torch
from verifier.sdp import TwoLayer


class Beside(nn.Module):
    """A hidden layer, and a linear path around it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x - 0.25))) + 0.5 * self.c(x)


def dense(activation: nn.Module, inputs: int = 4, neurons: int = 6) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, neurons), activation, nn.Linear(neurons, 3))


def convolutional() -> nn.Module:
    tail = [nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3)]
    return nn.Sequential(nn.Conv2d(1, 2, 2, padding=1, stride=2), nn.ReLU(), *tail)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: dense(nn.ReLU()), (4,)),
    "leaky": (lambda: dense(nn.LeakyReLU(0.2)), (4,)),
    "steep": (lambda: dense(nn.LeakyReLU(1.5)), (4,)),
    "sigmoid": (lambda: dense(nn.Sigmoid()), (4,)),
    "tanh": (lambda: dense(nn.Tanh()), (4,)),
    "hardtanh": (lambda: dense(nn.Hardtanh()), (4,)),
    "beside": (Beside, (4,)),
    "convolution": (convolutional, (1, 3, 3)),
}
ROWS = torch.tensor([[1.0, -1, 0], [0, 1, -1], [1, 0, -1], [0.5, 0.25, 2]], dtype=torch.float64)


def graph_of(name: str, seed: int = 0) -> Graph:
    torch.manual_seed(seed)
    make, shape = MODELS[name]
    return import_torch(make().double().eval(), torch.zeros(1, *shape, dtype=torch.float64))


def exhaustive(network: TwoLayer, rows: Tensor, radius: Tensor) -> Tensor:  # [S, outputs], [n] -> [S]
    """The quadratic program of eq. 6: convex in the slopes, so its maximum is at a corner of theirs."""
    v, g = network.rows(rows)
    slopes = torch.tensor(list(itertools.product((network.low, network.high), repeat=len(network.weights)))).double()
    gradients = (slopes.unsqueeze(1) * v) @ network.weights + g  # [corners, S, n]
    return (gradients.abs() @ radius).amax(0)


def exact(matrix: Tensor) -> list[list[Fraction]]:
    return [[Fraction(float(value)) for value in row] for row in matrix]


def is_norm_at_most(matrix: Tensor, bound: float) -> bool:
    """Whether bound^2 I - K K^T is positive semidefinite, by elimination in rational arithmetic."""
    rows = exact(matrix)
    size, square = len(rows), Fraction(bound) ** 2
    left = [[(square if i == j else 0) - sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for j in range(size)]
            for i in range(size)]  # fmt: skip
    for k in range(size):
        pivot = left[k][k]
        if pivot < 0 or (pivot == 0 and any(left[i][k] != 0 for i in range(k, size))):
            return False
        for i in range(k + 1, size):
            factor = left[i][k] / pivot if pivot else Fraction(0)
            for j in range(k, size):
                left[i][j] -= factor * left[k][j]
    return True
