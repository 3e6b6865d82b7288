"""Dual bounds of many cases of one condensed network at once, and their ascent.

A case (domain) narrows the intervals of some free neurons; what it proves is the one dual object's bound
(verifier.stages.multipliers) with every multiplier of the form nu = slope nu-hat + gamma: the slope is that of a line
of the relaxation over the case's interval, gamma the multiplier of the case's own constraints (the beta of Wang et al.
2021), which is free only in the direction in which the case constrains the neuron. Whatever the variables are, the
bound is sound: the constant is the minimum over the corners of each neuron's hull, not a line's bias.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from verifier.branching.matrices import Matrices
from verifier.forms import Dense
from verifier.ops.base import Pieces
from verifier.stages.multipliers import corner_minimum


@dataclass(frozen=True)
class Domains:
    """D cases: their rows, their intervals, and where their ascent has come to."""

    node: Tensor  # [D] int64: of the tree
    row: Tensor  # [D] int64: which row of the condensed network
    lower: Tensor  # [D, M]
    upper: Tensor  # [D, M]
    cut_below: Tensor  # [D, M] bool: a split has raised the lower end
    cut_above: Tensor  # [D, M] bool: a split has lowered the upper end
    alpha: Tensor  # [D, M] in [0, 1]: position between the flattest and the steepest line
    gamma: Tensor  # [D, M]
    bound: Tensor  # [D] float64: the best lower bound that alpha and gamma give

    @classmethod
    def root(cls, net: Matrices, rows: Tensor, nodes: Tensor | None = None) -> Domains:
        """One case per row, nothing split; rows [D] int64, nodes [D] int64 of the tree where there is one."""
        size = (len(rows), net.free)
        no = torch.zeros(size, dtype=torch.bool, device=net.bias.device)
        lower, upper = net.lower.expand(size), net.upper.expand(size)
        # the line of least area: for a ReLU the side that is longer
        alpha = (upper > -lower).to(net.bias)
        bound = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=net.bias.device)
        nodes = torch.zeros_like(rows) if nodes is None else nodes
        return cls(nodes, rows, lower, upper, no, no, alpha, torch.zeros(size).to(net.bias), bound)

    def __len__(self) -> int:
        return len(self.row)

    def select(self, index: Tensor) -> Domains:
        return Domains(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def concatenate(parts: list[Domains]) -> Domains:
        return Domains(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Domains)))

    def exactly(self, net: Matrices) -> Domains:
        """The same cases in the precision of `net`: its own intervals, narrowed where a split narrowed them."""
        lower = torch.where(self.cut_below, self.lower.to(net.bias), net.lower)
        upper = torch.where(self.cut_above, self.upper.to(net.bias), net.upper)
        return replace(self, lower=lower, upper=upper, alpha=self.alpha.to(net.bias), gamma=self.gamma.to(net.bias))


@dataclass(frozen=True)
class Hulls:
    """The relaxation of every free neuron over the intervals of D cases."""

    pieces: tuple[Pieces, ...]  # per block, [K, D, m]
    slopes: tuple[
        tuple[Tensor, Tensor, Tensor, Tensor], ...
    ]  # per block: lower flattest, change, upper flattest, change

    @classmethod
    def of(cls, net: Matrices, domains: Domains) -> Hulls:
        pieces, slopes = [], []
        for block in net.blocks:
            lower, upper = domains.lower[:, block.part], domains.upper[:, block.part]
            flat, steep = (block.op.relax(lower, upper, torch.full_like(lower, t)) for t in (0.0, 1.0))
            pieces.append(block.op.pieces(lower, upper))
            slopes.append((
                flat.lower_slope, steep.lower_slope - flat.lower_slope,
                flat.upper_slope, steep.upper_slope - flat.upper_slope,
            ))  # fmt: skip
        return cls(tuple(pieces), tuple(slopes))


@dataclass(frozen=True)
class Evaluation:
    """A dual bound and what it was made of."""

    bound: Tensor  # [D]
    nu: Tensor  # [D, M]: multipliers on the free neurons' inputs
    nu_hat: Tensor  # [D, M]: coefficients on their outputs
    on_input: Tensor  # [D, n]: the row as a form on the network's input


def evaluate(net: Matrices, hulls: Hulls, row: Tensor, alpha: Tensor, gamma: Tensor) -> Evaluation:
    """The bounds of D cases at alpha and gamma [D, M]; differentiable."""
    carried = net.row_free[row]
    constant = net.row_bias[row]
    nus: list[Tensor] = []
    hats: list[Tensor] = []
    for block, pieces, (low, low_step, high, high_step) in zip(
        reversed(net.blocks), reversed(hulls.pieces), reversed(hulls.slopes), strict=True
    ):
        nu_hat = carried[:, block.part]
        place = alpha[:, block.part]
        slope = torch.where(nu_hat >= 0, low + place * low_step, high + place * high_step)
        nu = slope * nu_hat + gamma[:, block.part]
        constant = constant + corner_minimum(pieces, nu_hat.unsqueeze(1), nu.unsqueeze(1)).flatten(1).sum(1)
        if block.part.start > 0:
            carried = carried[:, : block.part.start] + nu @ net.to_free[block.part, : block.part.start]
        nus.append(nu)
        hats.append(nu_hat)
    nu = torch.cat(nus[::-1], 1) if nus else carried
    nu_hat = torch.cat(hats[::-1], 1) if hats else carried
    on_input = net.row_input[row] + nu @ net.to_input
    form = Dense(on_input.unsqueeze(0).unflatten(2, net.inputs.shape))
    bound = net.inputs.minimum(form)[0] + nu @ net.bias + constant
    return Evaluation(bound, nu, nu_hat, on_input)


def bound_at(net: Matrices, hulls: Hulls, row: Tensor, nu: Tensor) -> Tensor:
    """The bounds [D] of D cases at given multipliers nu [D, M]: no slope is involved."""
    nu_hat = net.row_free[row] + nu @ net.to_free
    constant = net.row_bias[row] + nu @ net.bias
    for block, pieces in zip(net.blocks, hulls.pieces, strict=True):
        least = corner_minimum(pieces, nu_hat[:, block.part].unsqueeze(1), nu[:, block.part].unsqueeze(1))
        constant = constant + least.flatten(1).sum(1)
    on_input = net.row_input[row] + nu @ net.to_input
    return net.inputs.minimum(Dense(on_input.unsqueeze(0).unflatten(2, net.inputs.shape)))[0] + constant
