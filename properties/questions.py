"""Questions by name: specifications for what is usually asked of a network's outputs.

Each function makes a `Specification` from reference outputs, labels or numbers. One that is made for a single example
holds for every example of a batch (`Specification.expand`). Outputs of several dimensions are numbered in row-major
order, as `Tensor.flatten(1)` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from properties.specification import Specification, other_classes, robustness

#: rows of one specification; what would need more is refused
MOST_ROWS = 200_000

#: what an error about a question that is missing offers
NETWORKS_OF_SEVERAL_DIMENSIONS = (
    "properties.same_classes(model(x), dim=...) (every position keeps its class), properties.output_range(shape, low, "
    "high) (an interval for every output) or properties.near(model(x), distance) (outputs stay close); on the command "
    "line with --question, such as same_classes:1, output_range:0,1 or near:0.1"
)
NETWORKS_OF_ONE_OUTPUT = (
    "threshold=0.0 (the output stays on its side of a number: properties.same_side(model(x), threshold)), "
    "spec=properties.output_range((1,), low, high), spec=properties.near(model(x), distance) or "
    'spec=properties.linear(C, d); of certify question="threshold:0.0"; '
    "on the command line --threshold 0.0 or --question, such as output_range:0,1"
)


def linear(rows: Tensor, offset: Tensor | float = 0.0, *, strict: bool = True) -> Specification:
    """C y + d > 0, every row: one clause for each.

    Args:
        rows: [S, outputs], or [B, S, outputs] with rows for each example.
        offset: [S] or [B, S], or one number for all.
        strict: False: C y + d >= 0 is enough.

    Raises:
        ValueError: shapes that do not fit.
    """
    rows = torch.as_tensor(rows, dtype=torch.float64)
    rows = rows.unsqueeze(0) if rows.dim() == 2 else rows
    if rows.dim() != 3:
        raise ValueError(f"C must be [rows, outputs] or [batch, rows, outputs], got shape {tuple(rows.shape)}")
    given = torch.as_tensor(offset, dtype=torch.float64, device=rows.device)
    try:
        offset = given.expand(rows.shape[:2]).clone()
    except RuntimeError:
        raise ValueError(f"d must be one number per row {tuple(rows.shape[:2])}, got {tuple(given.shape)}") from None
    touching = None if strict else torch.ones_like(offset, dtype=torch.bool)
    return Specification(rows, offset, torch.arange(rows.shape[1], device=rows.device), touching=touching)


def same_classes(
    y: Tensor, dim: int = -1, *, where: Tensor | None = None, may_change: int = 0
) -> Specification:  # y [B, *output]
    """Every position keeps its class: the entry along `dim` that is largest at y stays so.

    For networks with a class at each position, such as token labels [B, tokens, classes] (dim=-1) or segmentation
    [B, classes, height, width] (dim=1). A share of the positions that must keep their class is asked for by
    `may_change`, which takes one clause for every choice of that many positions and one more, with every choice of
    their new classes: it is for few positions.

    Args:
        y: [B, *output], reference outputs, as a rule the model's own at x.
        dim: of the classes, counted with the batch as dimension 0.
        where: [*positions] bool, in the output's order without `dim`: which positions are asked about; default all.
        may_change: so many of these positions may change their class at the same time.

    Raises:
        ValueError: no such dimension, fewer than two classes, or more than MOST_ROWS rows.
    """
    if y.dim() < 2 or not -y.dim() < dim < y.dim() or dim == 0:
        raise ValueError(f"dim={dim} is no dimension of outputs [B, *output] of shape {tuple(y.shape)} but the batch")
    dim %= y.dim()
    classes, place = y.shape[dim], torch.arange(y[0].numel()).reshape(y.shape[1:]).movedim(dim - 1, -1)
    if classes < 2:
        raise ValueError(
            f"dimension {dim} of outputs of shape {tuple(y.shape)} holds {classes} class: nothing can change"
        )
    label = y.detach().cpu().movedim(dim, -1).argmax(-1).flatten(1)  # [B, positions]
    chosen = _chosen_positions(where, place.shape[:-1])
    place, label = place.reshape(-1, classes)[chosen], label[:, chosen]
    if not 0 <= may_change < len(place):
        raise ValueError(f"may_change={may_change} of {len(place)} positions: it must be less than those")
    count = math.comb(len(place), may_change + 1) * (classes - 1) ** (may_change + 1)
    _check_count(count * (may_change + 1), f"{count} ways in which {may_change + 1} of {len(place)} positions change")
    others = other_classes(label.flatten(), classes).reshape(*label.shape, classes - 1)  # [B, positions, classes - 1]
    ways = [
        [(p, c) for p, c in zip(group, wrong, strict=True)]
        for group in combinations(range(len(place)), may_change + 1)
        for wrong in torch.cartesian_prod(*[torch.arange(classes - 1)] * (may_change + 1))
        .reshape(-1, may_change + 1)
        .tolist()
    ]
    position = torch.tensor([p for way in ways for p, _ in way])
    other = torch.tensor([c for way in ways for _, c in way])
    rows = torch.zeros(len(y), len(position), y[0].numel(), dtype=torch.float64)
    rows.scatter_(2, place[position, label[:, position]].unsqueeze(2), 1.0)
    rows.scatter_(2, place[position, others[:, position, other]].unsqueeze(2), -1.0)
    clause = torch.arange(len(ways)).repeat_interleave(may_change + 1)
    return Specification(rows, rows.new_zeros(rows.shape[:2]), clause)


def output_range(
    shape: Sequence[int], low: Tensor | float = -math.inf, high: Tensor | float = math.inf
) -> Specification:
    """low <= y <= high, for every output; an infinite limit is none.

    Args:
        shape: of the outputs of one example.
        low, high: numbers, or tensors that broadcast to [*shape], or to [B, *shape] for limits of each example.

    Raises:
        ValueError: limits that are NaN or out of order, do not fit, are infinite for some examples only, or are all
            infinite.
    """
    shape = tuple(shape)
    ends = [torch.as_tensor(end, dtype=torch.float64).cpu() for end in (low, high)]
    batch = max((len(end) for end in ends if end.dim() > len(shape)), default=1)
    try:
        below, above = (end.expand(batch, *shape).reshape(batch, -1) for end in ends)
    except RuntimeError:
        raise ValueError(
            f"limits of shape {tuple(ends[0].shape)} and {tuple(ends[1].shape)} for outputs {shape}"
        ) from None
    if not bool((below <= above).all()):
        raise ValueError("the lower limits of outputs must not be above the upper ones, nor NaN")
    rows, offset, unit = [], [], torch.eye(below.shape[1], dtype=torch.float64)
    for sign, end in ((1.0, below), (-1.0, above)):
        limited = end.isfinite()
        if not bool((limited == limited[:1]).all()):
            raise ValueError("an output must have a limit for all examples or for none")
        _check_count(int(limited[0].sum()), f"{int(limited[0].sum())} limits")
        rows.append(sign * unit[limited[0]])
        offset.append(-sign * end[:, limited[0]])
    if sum(map(len, rows)) == 0:
        raise ValueError("no output has a finite limit: nothing is asked")
    return linear(torch.cat(rows).expand(batch, -1, -1), torch.cat(offset, 1), strict=False)


def near(y: Tensor, distance: float) -> Specification:  # y [B, *output]
    """|output - y| <= distance, for every output.

    Args:
        y: [B, *output], reference outputs. distance: > 0.

    Raises:
        ValueError: a distance that is no number > 0.
    """
    if not 0 < distance < math.inf:
        raise ValueError(f"distance must be a number > 0, got {distance}")
    y = y.detach().double().cpu()
    return output_range(y.shape[1:], y - distance, y + distance)


def same_side(y: Tensor, threshold: float = 0.0) -> Specification:  # y [B, 1] or [B]
    """A network's only output stays on its side of a threshold: >= threshold where y is, < threshold where y is.

    Raises:
        ValueError: several outputs, or a threshold that is no number.
    """
    if y[0].numel() != 1:
        raise ValueError(f"a threshold is for networks of one output, got outputs of shape {tuple(y.shape[1:])}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be a number, got {threshold}")
    above = y.detach().cpu().double().reshape(-1, 1) >= threshold
    sign = torch.where(above, 1.0, -1.0).double()
    return Specification(sign.unsqueeze(2), -threshold * sign, torch.zeros(1, dtype=torch.int64), touching=above)


def targeted(target: Tensor | Sequence[int], outputs: int) -> Specification:
    """The answer is never the target: at every point some other class has a larger output.

    Args:
        target: [B] class numbers.

    Raises:
        ValueError: no such class, or fewer than two.
    """
    target = torch.as_tensor(target)
    usual = robustness(target, outputs)  # rows target - other
    return Specification(-usual.rows, usual.offset, torch.zeros_like(usual.clause))


def one_of(classes: Iterable[int], outputs: int) -> Specification:
    """The answer is one of these classes: for every other class, one of these has a larger output.

    Raises:
        ValueError: no such class, no class, or all classes.
    """
    allowed = sorted(set(classes))
    if not allowed or not all(0 <= c < outputs for c in allowed) or len(allowed) == outputs:
        raise ValueError(f"classes must be some of 0 .. {outputs - 1}, and not all of them, got {allowed}")
    wrong, unit = [c for c in range(outputs) if c not in allowed], torch.eye(outputs, dtype=torch.float64)
    rows = torch.stack([unit[a] - unit[c] for c in wrong for a in allowed]).unsqueeze(0)
    clause = torch.arange(len(wrong)).repeat_interleave(len(allowed))
    return Specification(rows, rows.new_zeros(rows.shape[:2]), clause)


def top_k(label: Tensor | Sequence[int], k: int, outputs: int) -> Specification:
    """The label stays among the k largest outputs: of any k other classes, one is below it.

    One clause for every k of the other classes: for many classes and k it is refused.

    Args:
        label: [B] class numbers. k: 1 is the usual robustness.

    Raises:
        ValueError: no such class, k outside of 1 .. outputs - 1, or more than MOST_ROWS rows.
    """
    usual = robustness(torch.as_tensor(label), outputs)
    if not 1 <= k < outputs:
        raise ValueError(f"k must be in 1 .. {outputs - 1} for {outputs} classes, got {k}")
    count = math.comb(outputs - 1, k)
    _check_count(count * k, f"{count} choices of {k} classes")
    chosen = torch.tensor(list(combinations(range(outputs - 1), k))).flatten()
    clause = torch.arange(count).repeat_interleave(k)
    return Specification(usual.rows[:, chosen], usual.offset[:, chosen], clause, usual.label if k == 1 else None)


def _chosen_positions(where: Tensor | None, shape: torch.Size) -> Tensor:
    """Indices [n] of the positions that are asked about."""
    mask = torch.ones(shape, dtype=torch.bool) if where is None else torch.as_tensor(where).cpu()
    if mask.dtype is not torch.bool or mask.shape != shape or not mask.any():
        raise ValueError(f"where must be truth values of shape {tuple(shape)}, some of them True")
    return mask.flatten().nonzero().squeeze(1)


def _check_count(rows: int, what: str) -> None:
    if rows > MOST_ROWS:
        raise ValueError(f"{what}: that takes {rows} rows, and at most {MOST_ROWS} are supported")
