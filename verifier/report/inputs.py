"""The inputs of a run, found in the data that were given and compared with the digest in its store.

What a store says of its data is known here alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from properties import Question
from verifier.certification.dataset import Dataset, Images, Labels, dataset
from verifier.certification.report import Report
from verifier.errors import InputError


@dataclass(frozen=True)
class Inputs:
    """The clean inputs of a run, and their labels."""

    data: Dataset
    first: int  #: index of the first of them

    def __getitem__(self, index: int) -> np.ndarray:  # [*input]
        """The input of that index in the run."""
        return self.data.images[index - self.first].double().numpy()

    def example(self) -> Tensor:  # [1, *input]
        """One of them, without NaN."""
        return self.data.example_input()

    @classmethod
    def of(cls, report: Report, name: str, images: Images, labels: Labels) -> Inputs:
        """Those of a run.

        Args:
            images, labels: all those of the run's indices, or the slice of them that the run was given.

        Raises:
            InputError: they are not the run's by their sha256, or its store, of an older release, has none of each.
        """
        known = report.digests
        if not known:
            raise InputError(f"the store {name} has no sha256 of each example: leave out the data, or run it again")
        data = dataset(images, labels if labelled(report) else [-1] * len(images))
        given = data.digests()
        for first in sorted({0, min(known)}):
            if all(i - first < len(given) and given[i - first] == digest for i, digest in known.items()):
                return cls(data, first)
        raise InputError(
            f"the data are not those of {name}: of its {len(known)} examples, {min(known)} to {max(known)}, some are "
            f"not among the {len(given)} given by their sha256; give the file, and the options on how it is read "
            "(--scale, --shape, --layout, keys), that the run was given"
        )


def labelled(report: Report) -> bool:
    """Whether a run asked about labels; one that did not has none."""
    asked = report.meta["settings"].get("question")
    return asked is None or Question.parse(str(asked)).labelled


def examples(report: Report) -> str:
    """Which examples a run is about; stores of older releases do not say."""
    known = report.digests
    if not known:
        return str(report.meta["examples"])
    most = max(known) - min(known) + 1
    return f"{min(known)} to {max(known)}{'' if len(known) == most else f', {len(known)} of them'}"
