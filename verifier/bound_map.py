"""Proven intervals of nodes, each entry with what proved it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from properties.device import looked_at, sent
from verifier.errors import InternalError
from verifier.verdict import Trust


class BoundMethod(Enum):
    """How a bound of a neuron was found: what would have to be done again to find it again."""

    INTERVAL = "interval arithmetic"
    FIXED = "a backward pass with fixed slopes"
    ADAPTIVE = "a backward pass with adaptive slopes"
    OPTIMISED = "a backward pass with slopes of its own"
    SUBDOMAINS = "a tree of subdomains"
    PROGRAM = "a linear program"
    OTHER = "something else"


@dataclass(frozen=True)
class Provenance:
    """What proved a bound, and how far it is to be trusted."""

    rule: str  #: its name, for people: the stage's
    trust: Trust
    method: BoundMethod = BoundMethod.OTHER


@dataclass(frozen=True)
class Interval:
    """lower <= value <= upper for every entry of one node, for a batch of examples.

    `*_origin` holds, per entry, an index into `sources`.
    """

    lower: Tensor  # [B, *shape]
    upper: Tensor  # [B, *shape]
    lower_origin: Tensor  # [B, *shape] uint8
    upper_origin: Tensor  # [B, *shape] uint8
    sources: tuple[Provenance, ...]

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, source: Provenance) -> Interval:  # [B, *shape]
        origin = torch.zeros((), dtype=torch.uint8, device=lower.device).expand(lower.shape)
        return cls(lower, upper, origin, origin, (source,))

    @classmethod
    def resting(cls, lower: Tensor, upper: Tensor, source: Provenance, trusts: Tensor) -> Interval:
        """Bounds from one source, trusted as far as what each example's rest on: trusts [B] int64."""
        levels, origin = trusts.unique(return_inverse=True)
        sources = tuple(replace(source, trust=Trust(level)) for level in levels.tolist())
        if len(sources) == 1:
            return cls.of(lower, upper, sources[0])
        origin = origin.to(lower.device, torch.uint8).reshape(-1, *(1,) * (lower.dim() - 1)).expand(lower.shape)
        return cls(lower, upper, origin, origin, sources)

    def intersect(self, other: Interval) -> Interval:
        """Entry by entry the tighter bound of the two, with its own provenance. Never loosens; any is better than NaN.

        Raises:
            InternalError: where the two are disjoint by more than rounding: both enclose the same non-empty set.
        """
        lower = (other.lower > self.lower) | self.lower.isnan()
        return self._taking(other, lower, (other.upper < self.upper) | self.upper.isnan())

    def replaced(self, other: Interval) -> Interval:
        """The entries of `other` where it knows both sides, those of self elsewhere."""
        known = other.lower.isfinite() & other.upper.isfinite()
        return self._taking(other, known, known)

    def _taking(self, other: Interval, lower: Tensor, upper: Tensor) -> Interval:
        """Self, with the bounds of `other` and their provenance where the masks say so.

        Args:
            lower, upper: [B, *shape] bool.
        """
        sources, moved = _merged(self.sources, other.sources, other)
        result = Interval(
            torch.where(lower, moved.lower, self.lower),
            torch.where(upper, moved.upper, self.upper),
            torch.where(lower, moved.lower_origin, self.lower_origin),
            torch.where(upper, moved.upper_origin, self.upper_origin),
            sources,
        )
        return result._uncrossed(self, other)

    def _uncrossed(self, a: Interval, b: Interval) -> Interval:
        """Undo crossings that are rounding (both bounds are right to within it); raise on real ones."""
        crossed = self.lower > self.upper
        if looked_at(crossed) and not crossed.any():
            return self
        scale = 1 + torch.maximum(
            torch.maximum(a.lower.abs(), a.upper.abs()), torch.maximum(b.lower.abs(), b.upper.abs())
        )
        gap = torch.where(crossed, (self.lower - self.upper) / scale, torch.zeros_like(self.lower))
        if looked_at(gap) and float(gap.max()) > torch.finfo(self.lower.dtype).eps ** 0.5:
            raise InternalError(
                f"two bounds of the same values are disjoint by {float(gap.max()):.2e} (relative): one of "
                f"{[s.rule for s in self.sources]} is unsound; please report this with the model and the input"
            )
        return Interval(
            torch.where(crossed, torch.minimum(a.lower, b.lower), self.lower),
            torch.where(crossed, torch.maximum(a.upper, b.upper), self.upper),
            self.lower_origin,
            self.upper_origin,
            self.sources,
        )

    def select(self, index: Tensor) -> Interval:  # [k] int64 or [B] bool
        return Interval(
            self.lower[index], self.upper[index], self.lower_origin[index], self.upper_origin[index], self.sources
        )

    def to(self, dtype: torch.dtype) -> Interval:
        return Interval(self.lower.to(dtype), self.upper.to(dtype), self.lower_origin, self.upper_origin, self.sources)

    def on(self, device: torch.device) -> Interval:
        """The same on another device."""
        origins = self.lower_origin.to(device), self.upper_origin.to(device)
        return Interval(self.lower.to(device), self.upper.to(device), *origins, self.sources)

    def rules(self) -> frozenset[str]:
        """Names of the rules that some entry rests on."""
        return frozenset(source.rule for source in self._used())

    def methods(self) -> frozenset[BoundMethod]:
        """How the bounds of its entries were found."""
        return frozenset(source.method for source in self._used())

    def by(self, methods: Collection[BoundMethod]) -> Tensor:
        """Which examples have an entry that was found by one of these: [B] bool."""
        wanted = [source.method in methods for source in self.sources]
        if not any(wanted):
            return torch.zeros(len(self.lower), dtype=torch.bool, device=self.lower.device)
        table = torch.tensor(wanted, device=self.lower.device)
        return (table[self.lower_origin.long()] | table[self.upper_origin.long()]).flatten(1).any(1)

    def _used(self) -> list[Provenance]:
        used = set(self.lower_origin.unique().tolist()) | set(self.upper_origin.unique().tolist())
        return [self.sources[i] for i in sorted(used)]

    def trusts(self) -> Tensor:
        """The least trust of the rules that some entry of each example rests on: [B] int64."""
        levels = torch.tensor([int(s.trust) for s in self.sources], device=self.lower.device)
        if bool((levels == levels[0]).all()):
            return levels[:1].expand(len(self.lower))
        worst = [levels[o.long()].reshape(len(o), -1).amin(1) for o in (self.lower_origin, self.upper_origin)]
        return torch.minimum(*worst)


class Bounds(Mapping[int, Interval]):
    """Immutable: node index -> Interval, for one batch of examples. `intersect` can only tighten."""

    def __init__(self, intervals: Mapping[int, Interval] | None = None) -> None:
        self._intervals = dict(intervals or {})

    def __getitem__(self, node: int) -> Interval:
        return self._intervals[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._intervals)

    def __len__(self) -> int:
        return len(self._intervals)

    def intersect(self, other: Mapping[int, Interval]) -> Bounds:
        """What both know."""
        merged = dict(self._intervals)
        for node, interval in other.items():
            merged[node] = merged[node].intersect(interval) if node in merged else interval
        return Bounds(merged)

    def select(self, index: Tensor) -> Bounds:
        """The bounds of the examples `index` ([k] int64 or [B] bool)."""
        return Bounds({node: interval.select(index) for node, interval in self._intervals.items()})

    def to(self, dtype: torch.dtype) -> Bounds:
        return Bounds({node: interval.to(dtype) for node, interval in self._intervals.items()})

    def on(self, device: torch.device) -> Bounds:
        """The same on another device."""
        return Bounds({node: interval.on(device) for node, interval in self._intervals.items()})

    def trusts(self, batch: int) -> list[Trust]:
        """The least trust of all entries, per example of the batch; CHECKED where nothing was bounded."""
        worst = torch.full((batch,), int(Trust.CHECKED))
        for interval in self._intervals.values():
            worst = torch.minimum(worst, interval.trusts().cpu())
        return [Trust(t) for t in worst.tolist()]

    @staticmethod
    def concatenate(parts: list[Bounds]) -> Bounds:
        """The bounds of several batches as of one."""
        if len(parts) == 1:
            return parts[0]
        merged = {}
        for node in parts[0]:
            sources: tuple[Provenance, ...] = ()
            moved = []
            for part in parts:
                sources, interval = _merged(sources, part[node].sources, part[node])
                moved.append(interval)
            merged[node] = Interval(
                torch.cat([m.lower for m in moved]),
                torch.cat([m.upper for m in moved]),
                torch.cat([m.lower_origin for m in moved]),
                torch.cat([m.upper_origin for m in moved]),
                sources,
            )
        return Bounds(merged)


def _merged(
    first: tuple[Provenance, ...], second: tuple[Provenance, ...], interval: Interval
) -> tuple[tuple[Provenance, ...], Interval]:
    """One table of sources for both, and `interval` (which uses `second`) re-indexed into it."""
    if first == second:
        return first, interval
    table = first + tuple(s for s in second if s not in first)
    lookup = sent(torch.tensor([table.index(s) for s in second], dtype=torch.uint8), interval.lower.device)
    lower, upper = (lookup[o.long()] for o in (interval.lower_origin, interval.upper_origin))
    return table, Interval(interval.lower, interval.upper, lower, upper, table)
