"""Dual bounds of many subdomains of one condensed network at once, and what their gradients are made of.

A subdomain proves the one dual object's bound (verifier.relaxation.multipliers) with every multiplier of the form
nu = slope nu-hat + gamma: the slope (alpha) is that of a line of the relaxation over the subdomain's interval, gamma
the multiplier of the subdomain's own constraints (the beta of beta-CROWN, Wang et al. 2021), which the constant pays
for:

    row >= row + gamma (z - u)  for gamma >= 0 and z <= u,      row >= row + gamma (z - l)  for gamma <= 0 and z >= l.

So the bound is sound at any variables whatever. A backward pass gives it; a forward pass, from the point of the set at
which it is attained, gives every gradient, for the price of one more pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from properties import Box
from verifier.branching.matrices import Block, Matrices
from verifier.branching.products import TwoSided
from verifier.branching.relaxations import SubdomainRelaxation, roots_of
from verifier.branching.subdomains import STEPS, Subdomains
from verifier.forms import Dense


@dataclass(frozen=True)
class BackwardPass:
    """A backward pass through the condensed network, with everything that a forward pass needs."""

    bound: Tensor  # [D]
    nu: Tensor  # [D, Z]: multipliers on what the free neurons read
    nu_hat: Tensor  # [D, M]: coefficients on their outputs
    on_input: Tensor  # [D, n]: the clause as a form on the network's input
    slopes: list[Tensor]  # per block, of the lines used: [D or 1, m], of products [D or 1, 2, m]
    biases: list[Tensor | None]

    def select(self, index: Tensor) -> BackwardPass:  # [k] int64
        def part(t: Tensor | None) -> Tensor | None:  # [D or 1, m] -> [k or 1, m]
            return t if t is None or len(t) == 1 else t[index]

        slopes = [s if len(s) == 1 else s[index] for s in self.slopes]
        return BackwardPass(
            self.bound[index], self.nu[index], self.nu_hat[index], self.on_input[index], slopes,
            [part(b) for b in self.biases],
        )  # fmt: skip


@dataclass(frozen=True)
class ForwardPass:
    """The point of the set at which a bound is attained, and what the relaxed network makes of it."""

    x: Tensor  # [D, n]
    z: Tensor  # [D, Z]: what the free neurons read
    y: Tensor  # [D, M]: their outputs, on the lines used


class SubdomainDual:
    """A condensed network in one precision, with the clauses that are to be proved of it.

    Args:
        net: the network.
        clauses: [C, W] int64, the rows of each clause, filled up by repeating a row.
        valid: [C, W] bool, which entries are rows of their own.
    """

    def __init__(self, net: Matrices, clauses: Tensor, valid: Tensor) -> None:
        self.net, self.clauses, self.valid = net, clauses, valid
        self.roots = roots_of(net)
        self.to_input = TwoSided(net.to_input, [block.reads for block in net.blocks])
        self._box: tuple[Tensor, Tensor] | None = None  # middle and radius [n] each, where the set is a box
        if isinstance(net.inputs, Box):
            middle, radius = net.inputs.middle_and_radius(net.bias.dtype)
            self._box = middle.flatten(), radius.flatten()

    @classmethod
    def of(cls, net: Matrices, clause: Tensor) -> SubdomainDual:
        """With the clauses of a specification: clause [S] int64, of every row."""
        members = [(clause == c).nonzero().squeeze(1) for c in range(int(clause.max()) + 1)]
        most = max(map(len, members))
        rows = [torch.cat([m, m[-1:].expand(most - len(m))]) for m in members]
        valid = [torch.arange(most) < len(m) for m in members]
        return cls(net, torch.stack(rows), torch.stack(valid))

    def to(self, dtype: torch.dtype) -> SubdomainDual:
        return SubdomainDual(self.net.to(dtype), self.clauses, self.valid)

    @property
    def dtype(self) -> torch.dtype:
        return self.net.bias.dtype

    def start(self, targets: Tensor, nodes: Tensor) -> Subdomains:
        """One subdomain per clause of `targets` [D] int64, nothing split; nodes [D] int64 of the tree."""
        net, count = self.net, len(targets)
        one = (count, 1)
        no = torch.zeros(one, dtype=torch.bool)
        zero = torch.zeros(one, dtype=torch.int64)
        end = torch.zeros(one, dtype=torch.float64)  # of neurons that are not split, ends are the network's
        starts = [_start(b, net.lower[b.reads], net.upper[b.reads]) for b in net.blocks]
        slope = torch.cat([torch.zeros(0, dtype=torch.uint8), *starts]).expand(count, net.free)
        valid = self.valid[targets]
        weight = valid / valid.sum(1, keepdim=True)
        bound = torch.full((count,), -torch.inf, dtype=torch.float64)
        used = torch.zeros_like(targets)
        return Subdomains(
            nodes, targets, weight, used, zero, no, no, end, end, torch.zeros(one), slope.contiguous(), bound
        )

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The intervals of what free neurons read, over the undivided set: [Z] each."""
        return self.net.lower, self.net.upper

    def relaxation(self, subdomains: Subdomains) -> SubdomainRelaxation:
        return SubdomainRelaxation.of(self.net, self.roots, subdomains)

    def slopes(self, subdomains: Subdomains) -> Tensor:
        """Positions in [0, 1], [D, M]."""
        return subdomains.slope.to(self.dtype) / STEPS

    def at(self, subdomains: Subdomains) -> BackwardPass:
        """The bounds at the variables that the subdomains hold."""
        weight, gamma = subdomains.weight.to(self.dtype), subdomains.gamma.to(self.dtype)
        return self.backward(subdomains, self.relaxation(subdomains), self.slopes(subdomains), weight, gamma)

    def backward(
        self, subdomains: Subdomains, relaxation: SubdomainRelaxation, t: Tensor, weight: Tensor, gamma: Tensor
    ) -> BackwardPass:
        """The bounds of D subdomains with the lines t [D, M], the weights [D, W] and the multipliers gamma [D, K]."""
        net = self.net
        rows = (net.row_free, net.row_input, None)
        carried, on_input, constant = (self._combined(subdomains, weight, r) for r in rows)
        constant = constant - _paid(relaxation, gamma)
        extra = carried.new_zeros(len(carried), net.entries)
        if net.entries:
            extra.scatter_add_(1, subdomains.neuron, gamma)
        nu = torch.empty_like(extra)
        slopes: list[Tensor] = []
        biases: list[Tensor | None] = []
        for block, family in zip(reversed(net.blocks), reversed(relaxation.blocks), strict=True):
            nu_hat = carried[:, block.part]
            slope, bias = family.sided(nu_hat >= 0, t[:, block.part])
            if bias is not None:
                constant = constant + (bias * nu_hat).sum(1)
            below = block.onto(extra[:, block.reads], nu_hat, slope)
            nu[:, block.reads] = below
            if block.part.start:
                carried[:, : block.part.start].addmm_(below, net.to_free[block.reads, : block.part.start])
            slopes.append(slope)
            biases.append(bias)
        constant = constant + nu @ net.bias
        on_input = self.to_input.onto(on_input, nu)
        return BackwardPass(constant + self._minimum(on_input), nu, carried, on_input, slopes[::-1], biases[::-1])

    def _combined(self, subdomains: Subdomains, weight: Tensor, rows: Tensor | None) -> Tensor:
        """The clauses' rows, weighted: [D, columns] of a matrix [S, columns], [D] of the rows' constants (None)."""
        index = self.clauses[subdomains.target]
        if rows is None:
            return (weight * self.net.row_bias[index]).sum(1)
        if index.shape[1] == 1:
            return rows[index[:, 0]].mul_(weight)
        return torch.zeros(len(index), len(rows)).to(weight).scatter_add_(1, index, weight) @ rows

    def _minimum(self, form: Tensor) -> Tensor:  # [D, n] -> [D]
        if self._box is not None:
            return form @ self._box[0] - form.abs() @ self._box[1]
        return self.net.inputs.minimum(self._form(form))[0]

    def _form(self, form: Tensor) -> Dense:  # [D, n]
        return Dense(form.unsqueeze(0).unflatten(2, self.net.inputs.shape))

    def forward(self, backward: BackwardPass) -> ForwardPass:
        """Where the bounds are attained."""
        net, x = self.net, self._minimiser(backward.on_input)
        z = self.to_input.along(net.bias, x)
        y = z.new_empty(len(z), net.free)
        for block, slope, bias in zip(net.blocks, backward.slopes, backward.biases, strict=True):
            if block.part.start:
                z[:, block.reads].addmm_(y[:, : block.part.start], net.to_free[block.reads, : block.part.start].T)
            here = block.along(slope, z[:, block.reads])
            y[:, block.part] = here if bias is None else here + bias
        return ForwardPass(x, z, y)

    def _minimiser(self, form: Tensor) -> Tensor:  # [D, n] -> [D, n]
        if self._box is not None:
            return torch.addcmul(self._box[0].expand_as(form), form.sign(), self._box[1], value=-1)
        form = form.detach().requires_grad_()
        with torch.enable_grad():
            total = self.net.inputs.minimum(self._form(form)).sum()
        return torch.autograd.grad(total, form)[0]

    def slope_gradient(
        self, relaxation: SubdomainRelaxation, backward: BackwardPass, primal: ForwardPass
    ) -> Tensor:  # [D, M]
        found = torch.empty_like(backward.nu_hat)
        for block, family in zip(self.net.blocks, relaxation.blocks, strict=True):
            nu_hat, z = backward.nu_hat[:, block.part], primal.z[:, block.reads]
            found[:, block.part] = nu_hat * family.change(nu_hat >= 0, z)
        return found

    def sizes(self, nu_hat: Tensor) -> Tensor:
        """What multipliers of entries are measured in, [D, Z], for coefficients nu_hat [D, M].

        Of a neuron's own, its coefficient; of a factor, as much as the planes of its products can tilt.
        """
        found = nu_hat.new_empty(len(nu_hat), self.net.entries)
        for block in self.net.blocks:
            size = nu_hat[:, block.part].abs()
            if block.factors is not None:
                width = (self.net.upper - self.net.lower)[block.reads][block.factors]
                size = block.gathered(size.new_zeros(len(size), len(block.entries)), size.unsqueeze(1) * width.flip(0))
            found[:, block.reads] = size
        return found

    def gamma_gradient(
        self, subdomains: Subdomains, relaxation: SubdomainRelaxation, gamma: Tensor, primal: ForwardPass
    ) -> Tensor:  # [D, K]
        """How far the point is outside the subdomain, on the side that the multiplier is for."""
        if self.net.free == 0:
            return torch.zeros_like(gamma)
        z = primal.z.gather(1, subdomains.neuron)
        above, below = z - relaxation.upper, z - relaxation.lower
        still = torch.where(
            subdomains.lowered & (above > 0), above, torch.where(subdomains.raised & (below < 0), below, 0.0)
        )
        # a multiplier of zero may leave in its one direction only
        return torch.where(gamma > 0, above, torch.where(gamma < 0, below, still))

    def weight_gradient(self, subdomains: Subdomains, primal: ForwardPass) -> Tensor:  # [D, W]
        """The value of every row of the clause at the point."""
        rows = primal.x @ self.net.row_input.T + primal.y @ self.net.row_free.T + self.net.row_bias
        return rows.gather(1, self.clauses[subdomains.target])


def _start(block: Block, lower: Tensor, upper: Tensor) -> Tensor:  # [k] each -> [m] uint8
    """Positions of the lines of least area: for a ReLU the side that is longer; the middle of a product's planes."""
    if block.factors is not None:
        return torch.full((len(block.neurons),), STEPS // 2, dtype=torch.uint8)
    return torch.where(upper > -lower, STEPS, 0).to(torch.uint8)


def _paid(relaxation: SubdomainRelaxation, gamma: Tensor) -> Tensor:
    """What the multipliers of the splits [D, K] cost: [D]."""
    end = torch.where(gamma > 0, relaxation.upper, relaxation.lower)
    return torch.where(gamma == 0, 0.0, gamma * end).sum(1)
