"""What linear forms prove of clauses of several rows: weights by which some row is positive at every point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from properties import Specification
from verifier.branching.inputs_bounds import Forms, middle_and_radius

#: ascent steps for the weights of one clause; halvings where it has two rows
_STEPS, _HALVINGS = 30, 12


@dataclass(frozen=True)
class Clauses:
    """The best bound of each clause on D boxes, and the weights of its rows that give it."""

    value: Tensor  # [D, C]
    weights: Tensor  # [D, S], >= 0, of sum 1 over the rows of each clause

    def select(self, index: Tensor) -> Clauses:  # [k] int64
        return Clauses(self.value[index], self.weights[index])


def best(spec: Specification, forms: Forms, lower: Tensor, upper: Tensor, enough: Tensor) -> Clauses:
    """Bounds of all clauses: by their best row, and where that is not `enough` [D, C], by weights.

    Args:
        spec: its `clause` is used. forms: of the rows with their offsets, [D, S]. lower, upper: [D, n] the boxes.
    """
    values = forms.least(lower, upper)
    clause, count = spec.clause, spec.clauses
    one = spec.per_clause(values)
    rows = torch.arange(len(clause)).expand_as(values)
    leader = torch.where(values >= one[:, clause], rows, len(clause))  # the first row that attains the clause's best
    first = torch.full((len(values), count), len(clause)).scatter_reduce(1, clause.expand_as(values), leader, "amin")
    weights = (rows == first[:, clause]).to(values)
    sizes = torch.bincount(clause, minlength=count)
    for c in (sizes > 1).nonzero().squeeze(1).tolist():
        open_ = (one[:, c] <= enough[:, c]).nonzero().squeeze(1)
        if len(open_) == 0:
            continue
        members = (clause == c).nonzero().squeeze(1)
        part = Forms(forms.slope[open_][:, members], forms.constant[open_][:, members])
        value, mix = raised(part, lower[open_], upper[open_])
        better = value > one[open_, c]
        chosen = open_[better]
        one[chosen, c] = value[better]
        weights[chosen.unsqueeze(1), members] = mix[better]
    return Clauses(one, weights)


def raised(forms: Forms, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [D, R] on the simplex whose combination of the forms has a large minimum on the box, and that [D].

    The largest such minimum is, by duality, the least over the box of the forms' maximum. Any weights are sound, and
    the value is that of the weights returned.
    """
    middle, radius = middle_and_radius(lower, upper)
    center = forms.constant + torch.einsum("drn,dn->dr", forms.slope, middle)
    spread = forms.slope * radius.unsqueeze(1)
    weights = _between_two(center, spread) if center.shape[1] == 2 else _ascended(center, spread)
    weights = weights.float().to(center)  # as the record keeps them
    weights = weights / weights.sum(1, keepdim=True)
    form = torch.einsum("dr,drn->dn", weights, spread)
    return (weights * center).sum(1) - form.abs().sum(1), weights


def _between_two(center: Tensor, spread: Tensor) -> Tensor:
    """The best weights [D, 2] of two rows with values center - |spread|: by halving, as the minimum is concave in them.

    Args:
        center: [D, 2]. spread: [D, 2, n].
    """
    rise, turn = center[:, 1] - center[:, 0], spread[:, 1] - spread[:, 0]
    low, high = torch.zeros_like(rise), torch.ones_like(rise)
    for _ in range(_HALVINGS):
        w = 0.5 * (low + high)
        form = torch.addcmul(spread[:, 0], w.unsqueeze(1), turn)
        up = rise > torch.linalg.vecdot(form.sign(), turn)
        low, high = torch.where(up, w, low), torch.where(up, high, w)
    w = 0.5 * (low + high)
    return torch.stack([1 - w, w], 1)


def _ascended(center: Tensor, spread: Tensor) -> Tensor:
    """Weights [D, R] by multiplicative steps (exponentiated gradient); arguments as of `_between_two`, of R rows."""
    scale = (center.abs() + spread.abs().sum(2)).amax(1, keepdim=True).clamp(min=torch.finfo(center.dtype).tiny)
    logits = torch.zeros_like(center)
    value, weights = torch.full_like(center[:, 0], -torch.inf), torch.full_like(center, 1 / center.shape[1])
    for step in range(_STEPS):
        mix = logits.softmax(1)
        form = torch.einsum("dr,drn->dn", mix, spread)
        now = (mix * center).sum(1) - form.abs().sum(1)
        better = now > value
        value, weights = torch.where(better, now, value), torch.where(better.unsqueeze(1), mix, weights)
        ascent = center - torch.einsum("drn,dn->dr", spread, form.sign())
        logits = logits + ascent / scale * (8 / (1 + step) ** 0.5)
    return weights
