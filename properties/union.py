"""Unions of input sets: several threat models at once (Wong 2020, section 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from properties.box import Box, LinfBall
from properties.device import sent
from properties.input_set import Functional, InputSet, register
from properties.record import SetRecord


@register
class Union(InputSet):
    """{x : x lies in one of the members}, per example.

    The members' centers should be the same point; the first one's is the union's. Bounds see the convex hull, which
    contains the union: proofs about each member alone (as `Verifier` does them) lose nothing.

    Args:
        members: sets of one batch and one shape of inputs; unions among them count as their members.

    Raises:
        ValueError: no members, or of different batches or shapes.
    """

    tightness = "that of its members, for their convex hull"

    def __init__(self, members: Sequence[InputSet]) -> None:
        flat: list[InputSet] = []
        for member in members:
            if not isinstance(member, InputSet):
                raise ValueError(f"a union is made of input sets, got {type(member).__name__}")
            flat += member.members if isinstance(member, Union) else [member]
        if not flat:
            raise ValueError("a union needs at least one member")
        for i, member in enumerate(flat):
            if (member.batch, member.shape) != (flat[0].batch, flat[0].shape):
                raise ValueError(
                    "the members of a union need one batch and one shape: member 0 has "
                    f"{flat[0].batch} x {flat[0].shape}, member {i} has {member.batch} x {member.shape}"
                )
        self.members: tuple[InputSet, ...] = tuple(flat)

    @classmethod
    def examples(cls) -> list[Self]:
        x = torch.linspace(0, 1, 12).reshape(2, 2, 3)
        wide = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.2, 0.0]])
        return [
            cls([LinfBall(x, 0.1), Box(x - wide, x + wide)]),
            cls([LinfBall(x, 0.1, (0, 1))]),
            cls([Box(x, x + 0.1), Box(x + 0.3, x + 0.5), LinfBall(x, 0.0)]),
        ]

    @property
    def batch(self) -> int:
        return self.members[0].batch

    @property
    def shape(self) -> tuple[int, ...]:
        return self.members[0].shape

    def support(self, form: Functional) -> Tensor:  # [B, S]
        return torch.stack([m.support(form) for m in self.members]).amax(0)

    def minimum(self, form: Functional) -> Tensor:  # [B, S]
        return torch.stack([m.minimum(form) for m in self.members]).amin(0)

    def range(self, form: Functional, half: Functional | None = None) -> tuple[Tensor, Tensor]:  # [B, S] each
        low, high = zip(*(m.range(form, half) for m in self.members), strict=True)
        return torch.stack(low).amin(0), torch.stack(high).amax(0)

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, *input] each
        low, high = zip(*(m.box(dtype) for m in self.members), strict=True)
        return torch.stack(low).amin(0), torch.stack(high).amax(0)

    def representable(self, dtype: torch.dtype) -> InputSet:
        members = [member.representable(dtype) for member in self.members]
        return self if all(new is old for new, old in zip(members, self.members, strict=True)) else Union(members)

    def unclipped(self) -> Union:
        free = [member.unclipped() for member in self.members]
        return self if all(new is old for new, old in zip(free, self.members, strict=True)) else Union(free)

    def center(self) -> Tensor:  # [B, *input]
        return self.members[0].center()

    def contains(self, x: Tensor) -> Tensor:  # [B, *input] -> bool [B]
        return torch.stack([m.contains(x) for m in self.members]).any(0)

    def project(self, x: Tensor) -> Tensor:  # [B, *input]
        """The nearest of the members' projections."""
        points = torch.stack([m.project(x) for m in self.members])
        return _chosen(points, _distances(points, x).argmin(0))

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, *input] each
        """The step of the member whose own gains most, to first order: the largest gradient . update.

        Where the losses after the steps can be compared, multi steepest descent does better (verifier.attacks).
        """
        updates = torch.stack([m.steepest_ascent(x, gradient, step) for m in self.members])
        return _chosen(updates, (updates * gradient).flatten(2).sum(2).argmax(0))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, *input]
        """A random member of a set chosen at random, each with the same chance."""
        if len(self.members) == 1:
            return self.members[0].sample(generator)
        which = torch.randint(len(self.members), (self.batch,), generator=generator)
        points = torch.stack([m.sample(generator) for m in self.members])
        return _chosen(points, sent(which, points.device))

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, *input]
        # of the members that accept, the one to which x is nearest: another may lie far away
        points = torch.stack([m.inside(x, dtype) for m in self.members])
        accepted = torch.stack([m.contains(point) for m, point in zip(self.members, points, strict=True)])
        distance = _distances(points, x)
        accepting = torch.where(accepted, distance, torch.inf)
        return _chosen(points, torch.where(accepted.any(0), accepting, distance).argmin(0))

    def separate(self, x: Tensor) -> Tensor:  # [B, *input]
        """The normal of the member that is nearest. Points of the hull are cut off by none."""
        nearest = _distances(torch.stack([m.project(x) for m in self.members]), x).argmin(0)
        return _chosen(torch.stack([m.separate(x) for m in self.members]), nearest)

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        return type(self)([m.select(index) for m in self.members])

    def to(self, device: torch.device) -> Self:
        return type(self)([m.to(device) for m in self.members])

    def describe(self) -> dict[str, object]:
        return {"kind": "union", "members": [m.describe() for m in self.members]}

    def records(self) -> tuple[SetRecord, ...]:
        return tuple(record for m in self.members for record in m.records())


def _distances(points: Tensor, x: Tensor) -> Tensor:  # [M, B, *input], [B, *input] -> [M, B]
    """Euclidean distance of x from each member's points."""
    return (points.double() - x.double()).flatten(2).norm(dim=2)


def _chosen(points: Tensor, which: Tensor) -> Tensor:  # [M, B, *input], [B] -> [B, *input]
    """For each example the point of member `which`."""
    return points[which, torch.arange(len(which), device=which.device)]
