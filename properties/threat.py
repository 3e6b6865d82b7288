"""Threat models by name: how to make input sets from clean inputs and one radius."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from properties.input_set import InputSet, threat_model
from properties.union import Union


@dataclass(frozen=True)
class Threat:
    """One kind of set, or a union of several, whose radii are multiples of one number.

    Args:
        parts: (name, factor) of each kind (`properties.input_set.threats`): its radius is factor * eps.
    """

    parts: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, text: str | Threat) -> Threat:
        """From text such as "l2", or "linf+5*l2+40*l1": the union of balls of radii eps, 5 eps and 40 eps.

        Raises:
            ValueError: a name that no set has, or a factor that is no number > 0.
        """
        if isinstance(text, Threat):
            return text
        parts = []
        for part in str(text).split("+"):
            factor, times, name = part.rpartition("*")
            name = name.strip()
            threat_model(name)
            parts.append((name, _factor(factor, part) if times else 1.0))
        return cls(tuple(parts))

    @property
    def symmetric(self) -> bool:
        """Whether the sets around two inputs hold each other's center or neither does (`InputSet.symmetric`)."""
        return all(threat_model(name).symmetric for name, _ in self.parts)

    @property
    def nested(self) -> bool:
        """Whether of two radii around one input the smaller's set lies in the larger's (`InputSet.nested`)."""
        return all(threat_model(name).nested for name, _ in self.parts)

    def around(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> InputSet:
        """The sets of radius eps around clean inputs x [B, *input] (`InputSet.around`)."""
        members = [threat_model(name).around(x, factor * eps, clip) for name, factor in self.parts]
        return members[0] if len(members) == 1 else Union(members)

    def __str__(self) -> str:
        """The text that `of` reads as this very threat: runs are told apart by it."""
        return "+".join(name if factor == 1 else f"{_shortest(factor)}*{name}" for name, factor in self.parts)


def _shortest(factor: float) -> str:
    short = f"{factor:g}"
    return short if float(short) == factor and "e" not in short else repr(factor).replace("e+", "e")


def _factor(text: str, part: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"the factor in {part.strip()!r} must be a number > 0, as in 5*l2")
    return factor
