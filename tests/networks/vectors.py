"""Networks whose weights, lengths or arithmetic depend on the input, and graphs of fixed shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import network

SET = (4, 8)


class Hyper(nn.Module):
    """A network makes the weights of another (Ha et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.body, self.out = nn.Linear(6, 6 * 4 + 4), nn.Linear(6, 6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(self.made(x[:, 6:]))
        weight, bias = made[:, :24].reshape(-1, 4, 6), made[:, 24:]
        h = torch.relu(self.body(x[:, :6]))
        return self.out(torch.relu((weight @ h.unsqueeze(2)).squeeze(2) + bias))


def squash(x: Tensor) -> Tensor:  # [..., n], to lengths below 1 (Sabour et al. 2017)
    square = x.square().sum(-1, keepdim=True)
    return x * square / ((1 + square) * torch.sqrt(square + 1e-6))


class Capsules(nn.Module):
    """Capsules, one step of routing by agreement, and lengths as classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.votes = nn.Linear(12, 8), nn.Parameter(0.5 * torch.randn(2, 3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        parts = squash(self.first(x).reshape(-1, 2, 4))
        votes = torch.einsum("bid,ijde->bije", parts, self.votes)
        agreed = (votes * squash(votes.mean(1, keepdim=True))).sum(3)
        whole = squash((agreed.softmax(2).unsqueeze(3) * votes).sum(1))
        return (whole.square().sum(2) + 1e-6).sqrt()


class ArithmeticUnit(nn.Module):
    """Sums and products behind a gate (NALU, Trask et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.m = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(8, 12))
        self.gate, self.out = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.tanh(self.w) * torch.sigmoid(self.m)
        gate = torch.sigmoid(self.gate(x))
        products = torch.exp(F.linear(torch.log(x.abs() + 0.1), 0.3 * weight))
        return self.out(gate * F.linear(x, weight) + (1 - gate) * products)


class Modulated(nn.Module):
    """Features scaled and shifted by what a second part of the input says (FiLM, Perez et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.film, self.out = nn.Linear(8, 8), nn.Linear(4, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = self.film(x[:, 8:]).chunk(2, 1)
        return self.out(torch.relu((1 + gain) * self.body(x[:, :8]) + shift))


class Factorisation(nn.Module):
    """Pairs of features by products of their vectors (Rendle 2010), a logistic answer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.vectors = nn.Linear(12, 1), nn.Parameter(0.3 * torch.randn(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        pairs = (x @ self.vectors) ** 2 - x**2 @ self.vectors**2
        return torch.sigmoid(self.linear(x) + 0.5 * pairs.sum(1, keepdim=True))


class GraphAttention(nn.Module):
    """Attention between the neighbours of a ring (Velickovic et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        ring = torch.eye(4) + torch.eye(4).roll(1, 0) + torch.eye(4).roll(-1, 0)
        self.register_buffer("far", 50 * (1 - ring))
        self.body, self.out = nn.Linear(8, 6), nn.Linear(6, 3)
        self.source, self.target = nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        score = F.leaky_relu(self.source(h) + self.target(h).transpose(1, 2), 0.2) - self.far
        return self.out(F.elu(score.softmax(2) @ h).mean(1))


class Messages(nn.Module):
    """Messages over the edges of a constant graph, gathered and summed at their targets."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sources", torch.tensor([0, 1, 2, 3, 0]))
        self.register_buffer("incidence", F.one_hot(torch.tensor([1, 2, 3, 0, 2]), 4).T.float())
        self.message, self.update, self.out = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        edges = torch.cat([x[:, self.sources], self.incidence.T @ x], 2)
        arrived = self.incidence @ torch.relu(self.message(edges))
        return self.out(torch.relu(self.update(torch.cat([x, arrived], 2))).amax(1))


class Gaussians(nn.Module):
    """Class probabilities of radial units whose answers are normalised to sum 1 (Moody & Darken 1989)."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.scale = nn.Parameter(torch.randn(6, 12)), nn.Parameter(torch.rand(6))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        near = torch.exp(-0.1 * (0.5 + self.scale) * (x.unsqueeze(1) - self.centres).square().sum(2))
        return self.out(near / near.sum(1, keepdim=True))


class Tensors(nn.Module):
    """Two halves joined by a form of both (Socher et al. 2013)."""

    def __init__(self) -> None:
        super().__init__()
        self.form, self.out = nn.Bilinear(6, 6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.form(x[:, :6], x[:, 6:])))


class Equilibrium(nn.Module):
    """A fixed number of steps towards an equilibrium, the same layer in each."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.out = nn.Linear(8, 8), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z, given = x.new_zeros(len(x), 8), self.outer(x)
        for _ in range(4):
            z = torch.tanh(0.5 * self.inner(z) + given)
        return self.out(z)


KINDS = {
    "hypernetwork": Hyper, "capsules": Capsules, "arithmetic unit": ArithmeticUnit, "modulated features": Modulated,
    "factorisation machine": Factorisation, "normalised radial units": Gaussians, "neural tensor network": Tensors,
    "equilibrium of four steps": Equilibrium,
}  # fmt: skip
for name, kind in KINDS.items():
    network(name)(kind)
network("graph attention", SET)(GraphAttention)
network("messages over edges", SET)(Messages)
