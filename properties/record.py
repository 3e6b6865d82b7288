"""An input set written out: what a certificate says of it, and what its checker knows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SetRecord:  # [...] -> [...] float64
    """One set, by its definition alone: two records of one kind with the same values are the same set.

    The checker of certificates knows the kinds (verifier/checker/sets.py lists them, with what each has).
    """

    kind: str
    options: dict[str, float | str]  #: JSON values; numbers are exact, as their shortest text is read back as they are
    arrays: dict[str, NDArray[np.floating]]  #: float32 where that holds every entry exactly, else float64


def written(x: Tensor) -> NDArray[np.floating]:  # [*shape] float64
    """The same numbers as an array in float32 where they all are float32 numbers, else in float64."""
    values: NDArray[np.floating] = x.detach().cpu().numpy()
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values) else values.copy()


def written_range(clip: tuple[float, float] | None) -> dict[str, float | str]:
    """The finite ends of a valid range, as numbers `low` and `high`."""
    ends = {} if clip is None else {"low": float(clip[0]), "high": float(clip[1])}
    return {name: end for name, end in ends.items() if math.isfinite(end)}
