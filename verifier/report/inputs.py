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
            images, labels: of the run's examples, or of more: then those of the run's indices are taken.

        Raises:
            InputError: they are not the run's by their sha256.
        """
        meta = report.meta
        count, first = meta["examples"], first_index(report)
        places = slice(first, first + count) if len(images) >= first + count else slice(0, count)
        chosen = labels[places] if labelled(report) else [-1] * len(images[places])
        data = dataset(images[places], chosen)
        if data.digest() != meta["data"]:
            raise InputError(
                f"the data are not those of {name}: their sha256 over {len(data)} examples is "
                f"{data.digest()[:16]}..., the run's over {count} is {str(meta['data'])[:16]}...; give the file, and "
                "the options on how it is read (--scale, --shape, keys), that the run was given"
            )
        return cls(data, first)


def labelled(report: Report) -> bool:
    """Whether a run asked about labels; one that did not has none."""
    asked = report.meta["settings"].get("question")
    return asked is None or Question.parse(str(asked)).labelled


def first_index(report: Report) -> int:
    """Index of a run's first example."""
    return int(report.meta["settings"].get("first_index", 0))
