"""The inputs of a run, given beside its store, which has their digests alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from properties import Question
from verifier.certification.dataset import Dataset, Images, Labels, dataset
from verifier.certification.report import Report
from verifier.errors import InputError


@dataclass(frozen=True)
class RunData:
    """Labelled inputs, among them all of a run.

    Args:
        first: index of the first of them.
    """

    data: Dataset
    first: int

    @classmethod
    def of(cls, report: Report, name: str, images: Images, labels: Labels) -> RunData:
        """The data that a run is of: all those of the run's indices, or the slice of them that the run was given.

        Args:
            name: of the run. images, labels: [N, *input], [N].

        Raises:
            InputError: they are not the run's by their sha256, or its store is of a release that kept none by example.
        """
        known = report.digests
        if not known:
            raise InputError(f"the store {name} has no sha256 of each example: leave out the data, or run it again")
        asked = report.meta["settings"].get("question")
        unlabelled = asked is not None and not Question.parse(str(asked)).labelled
        data = dataset(images, [-1] * len(images) if unlabelled else labels)
        given = data.digests()
        for first in sorted({0, min(known)}):
            if all(i - first < len(given) and given[i - first] == digest for i, digest in known.items()):
                return cls(data, first)
        raise InputError(
            f"the data are not those of {name}: of its {len(known)} examples, {min(known)} to {max(known)}, some are "
            f"not among the {len(given)} given by their sha256; give the file, and the options on how it is read "
            "(--scale, --shape, --layout, keys), that the run was given"
        )

    def input(self, index: int) -> Tensor:  # -> [*input]
        """Of the example of an index."""
        return self.data.images[index - self.first]
