"""Networks that multiply what they compute: gates, experts, interactions of features, sets and graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import network

SET = (4, 8)


class Gated(nn.Module):
    """activation(gate(x)) * up(x), then classes."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.gate, self.up, self.out = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.gate(x)) * self.up(x))


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.body, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return self.out(gate * torch.relu(self.body(x)) + (1 - gate) * x)


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(12, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).reshape(len(x), 8, 2).amax(2))


class Experts(nn.Module):
    """Mixture by softmax weights."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(12, 3), nn.ModuleList([Gated(torch.sigmoid) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        return (F.softmax(self.gate(x), 1).unsqueeze(2) * answers).sum(1)


class Cross(nn.Module):
    """Deep & Cross network (Wang et al. 2021): x0 * (W x + b) + x."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.out = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)]), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = x * layer(y) + y
        return self.out(y)


class Radial(nn.Module):
    """Gaussians of distances to centres."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.out = nn.Parameter(torch.randn(6, 12)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.exp(-0.1 * (x.unsqueeze(1) - self.centres).square().sum(2)))


class Cosine(nn.Module):
    """Classes by the cosine to their prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = nn.Linear(12, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(self.body(x)), F.normalize(self.weight))


class DeepSets(nn.Module):
    def __init__(self, pooled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pooled, self.each = pooled, nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.whole = nn.Sequential(nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.pooled(self.each(x)))


class GraphConvolution(nn.Module):
    """A ring of four nodes."""

    def __init__(self) -> None:
        super().__init__()
        ring = torch.eye(4) + torch.eye(4).roll(1, 0) + torch.eye(4).roll(-1, 0)
        self.register_buffer("adjacency", ring / 3)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.adjacency @ torch.relu(self.first(self.adjacency @ x))).mean(1)


class Siamese(nn.Module):
    """Halves of the input by the same body; distance of the results."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x[:, :6]) - self.body(x[:, 6:])).square().sum(1, keepdim=True)


GATES = {"GLU": torch.sigmoid, "GEGLU": F.gelu, "ReGLU": torch.relu, "SwiGLU": F.silu, "bilinear": lambda x: x}
for name, gate in GATES.items():
    network(f"gate, {name}")(lambda gate=gate: Gated(gate))
for kind in (Highway, Maxout, Experts, Cross, Radial, Cosine, Siamese):
    network(kind.__name__)(kind)
network("graph convolution", SET)(GraphConvolution)
POOLS = {"sum": lambda x: x.sum(1), "mean": lambda x: x.mean(1), "max": lambda x: x.amax(1),
         "logsumexp": lambda x: x.logsumexp(1)}  # fmt: skip
for name, pool in POOLS.items():
    network(f"DeepSets, {name}", SET)(lambda pool=pool: DeepSets(pool))
