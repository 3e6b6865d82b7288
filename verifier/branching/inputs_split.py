"""Cutting off what linear forms prove of boxes, and choosing where to split the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from properties import Specification
from verifier.branching.inputs_bounds import Forms, middle_and_radius

#: a cut that takes less than this share of a side is not worth a place in the record
_SHARE = 0.05
#: weight of a form's own change along a side, beside what relaxation costs there
_SLOPE = 0.3


@dataclass(frozen=True)
class BoxCut:
    """A slab that is cut off some boxes; tensors over those boxes."""

    boxes: Tensor  # [k] int64: which
    side: int
    at: Tensor  # [k]
    keeps_above: bool  #: the slab is x <= at; otherwise x >= at
    row: Tensor  # [k, C] int64: the row that proves each open clause on the slab
    value: Tensor  # [k, C]: by what bound


def cuts(
    spec: Specification, forms: Forms, lower: Tensor, upper: Tensor, open_: Tensor, enough: Tensor
) -> Iterator[BoxCut]:
    """Slabs to cut off D boxes, one side of the boxes after the other. `lower` and `upper` shrink on the way.

    On a slab some row of every open clause is above `enough`. Where to cut is worked out in plain arithmetic; a cut is
    made where the bounds on the very slab, evaluated like any bound, say so.

    Args:
        forms: of the rows [D, S] on the boxes, offsets included. lower, upper: [D, n], changed in place.
        open_: [D, C] clauses that are not proved yet. enough: [D, S].
    """
    clause = spec.clause
    for side in (upper > lower).any(0).nonzero().squeeze(1).tolist():
        for keeps_above in (False, True):
            slope = forms.slope[:, :, side]
            middle, radius = middle_and_radius(lower, upper)
            parts = forms.slope * middle.unsqueeze(1) - forms.slope.abs() * radius.unsqueeze(1)
            rest = forms.constant + parts.sum(2) - parts[:, :, side]
            useful = slope < 0 if keeps_above else slope > 0
            width = upper[:, side] - lower[:, side]
            # where the form reaches `enough`; a little further in, so that rounding leaves it there
            place = (enough - rest) / torch.where(useful, slope, 1.0)
            slack = 1e-6 * width.unsqueeze(1)
            # from the kept end inwards, so that smaller is better on either side
            cost = torch.where(useful, (-place if keeps_above else place) + slack, torch.inf)
            by_clause = torch.full((len(lower), spec.clauses), torch.inf, dtype=cost.dtype)
            by_clause = by_clause.scatter_reduce(1, clause.expand_as(cost), cost, "amin")
            worst = torch.where(open_, by_clause, -torch.inf).amax(1)
            at = -worst if keeps_above else worst
            gain = (at - lower[:, side]) if keeps_above else (upper[:, side] - at)
            boxes = ((gain > _SHARE * width) & (at > lower[:, side]) & (at < upper[:, side])).nonzero().squeeze(1)
            if len(boxes) == 0:
                continue
            at = at[boxes]
            slab_low, slab_high = lower[boxes].clone(), upper[boxes].clone()
            (slab_high if keeps_above else slab_low)[:, side] = at
            values = forms.select(boxes).least(slab_low, slab_high)
            best = spec.per_clause(values - enough[boxes])
            sure = ((best > 0) | ~open_[boxes]).all(1)
            boxes, at, values, best = boxes[sure], at[sure], values[sure], best[sure]
            if len(boxes) == 0:
                continue
            (lower if keeps_above else upper)[boxes, side] = at
            row = _leaders(spec, values - enough[boxes], best)
            yield BoxCut(boxes, side, at, keeps_above, row, values.gather(1, row))


def _leaders(spec: Specification, values: Tensor, best: Tensor) -> Tensor:
    """The first row of each clause that attains its best value: [k, C]."""
    rows = torch.arange(values.shape[1]).expand_as(values)
    leader = torch.where(values >= best[:, spec.clause], rows, values.shape[1] - 1)
    none = torch.full_like(best, values.shape[1] - 1, dtype=torch.int64)
    return none.scatter_reduce(1, spec.clause.expand_as(values), leader, "amin")


def choose(losses: Tensor, form: Tensor, lower: Tensor, upper: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The side to split of each of D boxes, where, and whether there is one.

    The side that answers for most of the loss of the relaxation, and of what the form itself loses along it.

    Args:
        losses: [D, n] of the relaxation per side, for the box before it was cut. form: [D, n] slopes of the row.
        whole: [D, n] widths of the box before it was cut.
    """
    width = upper - lower
    share = width / torch.where(whole > 0, whole, 1.0)
    gain = losses * share + 0.5 * _SLOPE * form.abs() * width
    middle = 0.5 * lower + 0.5 * upper
    possible = (middle > lower) & (middle < upper)
    gain = torch.where(possible, gain.nan_to_num(nan=0.0, posinf=0.0), -1.0)
    # nothing to choose by: the widest side
    flat = (gain <= 0).all(1, keepdim=True)
    side = torch.where(flat & possible, width, gain).argmax(1)
    return side, middle.gather(1, side.unsqueeze(1)).squeeze(1), possible.any(1)
