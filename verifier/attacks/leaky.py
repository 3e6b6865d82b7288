"""Descent from many starts at once, by gradients that leak through activations that pass none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from verifier.attacks.base import Attack, register
from verifier.attacks.cost import starts_within
from verifier.attacks.pgd import unit
from verifier.attacks.points import AttackPoints
from verifier.attacks.problem import AttackProblem, pick
from verifier.graph import Graph
from verifier.ops.base import Activation

if TYPE_CHECKING:
    from verifier.budget import Budget

#: by what part of a run the leak has faded
_FADED = 2 / 3
#: the last step over the first
_LAST = 0.03
#: share of the last direction that is kept
_MOMENTUM = 0.75
#: fewer starts than this are not one of each kind
_FEW = 4


@register
class LeakyPGD(Attack):
    """Projected gradient descent from many starts in one batch, half of them by gradients that leak.

    Where most neurons are inactive, the gradient says nothing of them, and descents from everywhere end on one
    plateau. A leak adds to the derivative of every activation a share of the identity's (the straight-through
    estimator of Bengio et al. 2013): it shows which inactive neurons would help, and leads through signs and steps. For
    every second start that has one it fades on the way, so that the last steps follow the network's own gradient.
    Values are the network's own throughout. Every second start goes after whichever clause is lowest at each step, the
    others after one clause each, the lowest ones at the center first.

    Problems without a graph have nothing to leak through; there, all gradients are the network's own.

    Args:
        starts: random members of each set; the center counts as one.
        steps: steepest steps of each start in the first round.
        rounds: each begins at other members and takes twice the steps of the one before. An example whose value is
            below zero is in no further round.
        step: length of the first step as a fraction of the set's size; it shrinks linearly to a thirtieth.
        leak: the largest share; each start has a random one of its own.
        seed: of the starts.
    """

    name = "leaky-pgd"
    never_worse = True

    def __init__(
        self, starts: int = 32, steps: int = 100, rounds: int = 1, step: float = 0.3, leak: float = 0.2, seed: int = 0
    ) -> None:
        super().__init__(seed)
        if min(starts, steps, rounds) < 1 or not step > 0 or not leak >= 0:
            raise ValueError(
                "starts, steps and rounds must be at least 1, step > 0 and leak >= 0, "
                f"got {starts}, {steps}, {rounds}, {step} and {leak}"
            )
        self.starts, self.steps, self.rounds, self.step, self.leak = starts, steps, rounds, step, leak

    @classmethod
    def within(cls, products: float, graph: Graph, batch: int, **options: Any) -> LeakyPGD | None:
        """With no more starts than a first round of so many products of numbers allows; None where that is too few.

        Args:
            products: of all passes through the network together, forward and backward.
            batch: sets that are attacked. options: the attack's.
        """
        full = cls(**options)
        starts = min(full.starts, starts_within(products, graph, batch, full.steps))
        return cls(**{**options, "starts": starts}) if starts >= _FEW else None

    @classmethod
    def examples(cls) -> Sequence[Attack]:
        return [cls(5, 4), cls(4, 2, 2, leak=1.0)]

    def search(
        self, problem: AttackProblem, generator: torch.Generator, budget: Budget | None
    ) -> tuple[Tensor, Tensor]:  # [B, *input], [B]
        best, clauses = AttackPoints.of_centers(problem)
        order = clauses.argsort(1)
        for number in range(self.rounds):
            left = (~(best.value < 0)).nonzero().squeeze(1)
            if len(left) == 0 or (budget is not None and budget.spent):
                break
            example = left.repeat_interleave(self.starts)
            part = problem.select(example)
            x = part.inputs.sample(generator).to(problem.dtype)
            if number == 0:
                x[:: self.starts] = best.points[left]  # the centers, until something is kept
            loss = self._loss(part, order[example])
            leak = self._leaks(generator).to(x).repeat(1, len(left))
            self._descend(part, x, example, loss, leak, self.steps << number, best, budget)
        return best.points, best.value

    def _loss(self, part: AttackProblem, order: Tensor) -> Callable[[Tensor], Tensor]:  # [k, clauses] int64
        """What each of k starts descends on: a function of clauses [k, clauses] that gives [k]."""
        if part.target is not None:
            return part.value
        count, clauses = order.shape
        number = torch.arange(count, device=order.device) % self.starts
        own, free = pick(order, number // 4 % clauses), number % 2 == 0
        return lambda values: torch.where(free, values.amin(1), pick(values, own))

    def _leaks(self, generator: torch.Generator) -> Tensor:
        """What fades and what stays of each start's leak, [2, starts]."""
        leaks = self.leak * torch.rand(self.starts, generator=generator)
        kind = torch.arange(self.starts) // 2 % 4  # pairs: one after the lowest clause, one after its own
        return torch.stack([leaks * (kind == 1), leaks * (kind == 3)])

    def _descend(
        self, part: AttackProblem, x: Tensor, example: Tensor, loss: Callable[[Tensor], Tensor], leak: Tensor,
        steps: int, best: AttackPoints, budget: Budget | None,
    ) -> None:  # fmt: skip
        """Steps from x [k, *input]; what is seen is kept in `best`. leak [2, k]: what fades, what stays."""
        pull, (fades, stays), asked = torch.zeros_like(x), leak, part
        for k in range(steps + 1):
            if part.graph is not None and self.leak > 0:
                share = fades * max(0.0, 1 - k / (_FADED * steps)) + stays
                asked = replace(part, network=leaking(part.graph, share))
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                clauses = asked.clauses(x)
                (gradient,) = torch.autograd.grad(loss(clauses).sum(), x)
            x, value = x.detach(), part.value(clauses.detach())
            best.keep_lowest(x, torch.where(value.isnan(), torch.inf, value), example)
            if k == steps or bool((best.value[example] < 0).all()) or (budget is not None and budget.spent):
                return
            pull = _MOMENTUM * pull - unit(gradient)
            length = self.step * (1 - (1 - _LAST) * k / steps)
            x = part.inputs.project(x + part.inputs.steepest_ascent(x, pull, length))


def leaking(graph: Graph, share: Tensor) -> Callable[[Tensor], Tensor]:
    """The network as a function whose backward pass is another one: `share` of the gradient passes by each activation.

    Args:
        share: [B], of each input.

    Returns:
        [B, *input] -> [B, *output], with the values of `graph.forward`.
    """

    def forward(x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
        values = [x]
        for node in graph.nodes[1:]:
            assert node.op is not None
            parents = [values[p] for p in node.parents]
            value = node.op.apply(*parents)
            if isinstance(node.op, Activation):
                value = _Leak.apply(value, parents[0], share.reshape(-1, *(1,) * (value.dim() - 1)))
            values.append(value)
        return values[-1]

    return forward


class _Leak(torch.autograd.Function):
    """A value, with a share of its gradient for something else too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, beside: Tensor, share: Tensor) -> Tensor:  # [B, ...] each
        ctx.save_for_backward(share)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # [B, ...]
        (share,) = ctx.saved_tensors
        return gradient, share * gradient, None
