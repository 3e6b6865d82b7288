"""What must hold at every point of the input set: clauses of linear rows on the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Specification:
    """Clauses of linear rows `rows . y + offset` on the outputs y, for a batch of B examples.

    The property holds at a point when every clause has a row > 0 there; a counterexample is a point where all rows
    of one clause are <= 0. Row s of example b belongs to clause `clause[s]`. A row that is `touching` holds at 0 as
    well: the property needs it >= 0, and a counterexample has it < 0.

    Args:
        rows: [B, S, outputs], finite. Stages bound each from below over the input set.
        offset: [B, S], finite.
        clause: [S] int64, values 0 .. C - 1, each of them at least once; the same for all examples.
        label: [B] int64, for robustness specifications: results and tables show it.
        touching: [B, S] bool, which rows hold at 0 too; default none.

    Raises:
        ValueError: shapes that do not fit, a clause without a row, NaN or infinite numbers.
    """

    rows: Tensor  # [B, S, outputs]
    offset: Tensor  # [B, S]
    clause: Tensor  # [S] int64, values 0 .. clauses - 1
    label: Tensor | None = None  # [B] int64, for robustness specifications
    touching: Tensor | None = None  # [B, S] bool

    def __post_init__(self) -> None:
        b, s, _ = self.rows.shape
        if self.offset.shape != (b, s) or self.clause.shape != (s,):
            raise ValueError(
                f"a specification needs rows [B, S, outputs], offset [B, S] and clause [S], got "
                f"{tuple(self.rows.shape)}, {tuple(self.offset.shape)} and {tuple(self.clause.shape)}"
            )
        if s == 0 or set(self.clause.tolist()) != set(range(int(self.clause.max()) + 1)):
            raise ValueError("clause must number the clauses 0, 1, ... with at least one row each")
        if self.touching is not None and (self.touching.shape != (b, s) or self.touching.dtype is not torch.bool):
            raise ValueError(f"touching must be truth values of shape {(b, s)}, got {tuple(self.touching.shape)}")
        for name, value in (("rows", self.rows), ("offset", self.offset)):
            if not value.isfinite().all():
                raise ValueError(f"the specification's {name} has NaN or infinite values")

    @property
    def batch(self) -> int:
        """Number of examples B."""
        return self.rows.shape[0]

    @cached_property
    def clauses(self) -> int:
        """Number of clauses C."""
        return int(self.clause.max()) + 1

    @property
    def compares(self) -> bool:
        """Whether all that is asked is which outputs are larger: every row is a multiple of one less another."""
        pairs = (self.rows != 0).sum(2) == 2
        return bool((pairs & (self.rows.sum(2) == 0)).all()) and not bool(self.offset.any())

    def values(self, y: Tensor) -> Tensor:  # y [B, outputs] -> [B, S]
        """The rows' values at outputs y [B, outputs]; [B, S], in the precision of y."""
        return torch.einsum("bso,bo->bs", self.rows.to(y), y) + self.offset.to(y)

    def judged(self, values: Tensor) -> Tensor:  # [B, S] -> [B, S]
        """Values of rows, or lower bounds of theirs, that are > 0 exactly where the rows hold.

        The same, but for touching rows at 0, which become the smallest normal number. This is the one place that
        knows when a row holds: of rounded values, and of bounds less their rounding errors, it holds as well.

        Args:
            values: [B, S].
        """
        if self.touching is None:
            return values
        smallest = torch.finfo(values.dtype).tiny
        return torch.where(self.touching.to(values.device) & (values == 0), smallest, values)

    def per_clause(self, values: Tensor) -> Tensor:  # [B, S] -> [B, clauses]
        """The largest row of each clause: the property holds where all of these are > 0, of values as `judged`.

        Args:
            values: [B, S], values of rows at one point per example, or lower bounds of theirs over a set.

        Returns:
            [B, C]: of values, those of the clauses; of lower bounds, lower bounds of the clauses.
        """
        out = values.new_full((values.shape[0], self.clauses), -torch.inf)
        return out.scatter_reduce(1, self.clause.to(values.device).expand_as(values), values, "amax")

    def alone(self, values: Tensor) -> Tensor:  # [B, clauses] -> [B, S]
        """Bounds of whole clauses as bounds of the rows that are a clause of their own; -inf for all other rows.

        Args:
            values: [B, C].

        Returns:
            [B, S].
        """
        rows = torch.bincount(self.clause, minlength=self.clauses)[self.clause]
        return torch.where(rows == 1, values[:, self.clause], -torch.inf)

    def worst(self, values: Tensor) -> Tensor:  # [B, S] -> [B]
        """The smallest clause value, of values as `judged`: > 0 exactly where the property holds. NaN stays NaN.

        Args:
            values: [B, S].

        Returns:
            [B].
        """
        worst = self.per_clause(self.judged(values)).amin(1)
        return torch.where(values.isnan().any(1), torch.full_like(worst, torch.nan), worst)

    def select(self, index: Tensor) -> Self:
        """The specifications of some examples: index [k] int64 or [B] bool."""
        label, touching = (None if part is None else part[index] for part in (self.label, self.touching))
        return self._like(self.rows[index], self.offset[index], self.clause, label, touching)

    def expand(self, batch: int) -> Self:
        """That of one example for `batch` of them. Raises ValueError where it is of several already."""
        if self.batch != 1:
            raise ValueError(f"a specification of {self.batch} examples cannot be that of {batch}")
        return self.select(torch.zeros(batch, dtype=torch.int64, device=self.rows.device))

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        label, touching = (None if part is None else part.to(device) for part in (self.label, self.touching))
        return self._like(self.rows.to(device), self.offset.to(device), self.clause.to(device), label, touching)

    def _like(
        self, rows: Tensor, offset: Tensor, clause: Tensor, label: Tensor | None, touching: Tensor | None
    ) -> Self:
        """With other tensors, of this one's numbers, which were looked at when it was made: no look holds up a device.

        Args:
            rows, offset, label, touching: [k, ...] for the [B, ...] of self. clause: [S].
        """
        other = object.__new__(type(self))
        fields = {"rows": rows, "offset": offset, "clause": clause, "label": label, "touching": touching}
        other.__dict__.update({**self.__dict__, **fields})
        return other


def robustness(label: Tensor, classes: int) -> Specification:
    """The answer stays `label`: one clause per other class, of one row, logit[label] - logit[other].

    Rows run over the other classes in increasing order.

    Args:
        label: [B] int64, values in 0 .. classes - 1.
    """
    if classes < 2:
        raise ValueError(f"robustness needs at least two classes, the network has {classes} output(s)")
    bad = (label < 0) | (label >= classes)
    if bad.any():
        at = int(bad.nonzero()[0])
        raise ValueError(f"label {int(label[at])} at index {at} is out of range: the network has {classes} classes")
    identity = torch.eye(classes, dtype=torch.float64, device=label.device)
    others = other_classes(label, classes)
    rows = identity[label].unsqueeze(1) - identity[others]
    offset = rows.new_zeros(rows.shape[:2])
    return Specification(rows, offset, torch.arange(classes - 1, device=label.device), label)


def other_classes(label: Tensor, classes: int) -> Tensor:  # [B] -> [B, classes - 1]
    """The classes other than `label`, in increasing order: the class that each row of `robustness` is about."""
    index = torch.arange(classes - 1, device=label.device).expand(len(label), -1)
    return index + (index >= label.unsqueeze(1))
