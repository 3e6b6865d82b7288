"""Whether certificates are about the examples that somebody means, and not about others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from properties import Perturbation
from properties.record import SetRecord
from verifier.certification.dataset import Dataset
from verifier.checker.audit import Audited
from verifier.checker.document import Document


@dataclass(frozen=True)
class Expected:
    """The examples of a run of `certify`, each by the number that its certificate gives itself."""

    data: Dataset
    asked: Perturbation
    first: int = 0  #: number of the first example
    _seen: set[int] = field(default_factory=set, repr=False)

    def judged(self, one: Audited) -> Audited:
        """Invalid where a valid certificate is about something else, or about an example that another one was about."""
        why = self.contradiction(Document.read(one.path), one.about.get("index")) if one.valid else ""
        return replace(one, valid=False, reason=why) if why else one

    def contradiction(self, document: Document, index: object) -> str:
        """Why a document is not about example `index` as it should be; empty where it is."""
        if type(index) is not int or not self.first <= index < self.first + len(self.data):
            return f"it says that it is about example {index}, which the data do not have"
        if index in self._seen:
            return f"another certificate is about example {index} already"
        self._seen.add(index)
        place = index - self.first
        label, asked = int(self.data.labels[place]), document.head["specification"]
        if asked["kind"] != "robustness" or asked["label"] != label:
            named = f"label {asked['label']}" if asked["kind"] == "robustness" else "rows of its own"
            return f"it is about {named}, the data say label {label}"
        x = torch.as_tensor(self.data.images[place : place + 1])
        wanted = self.asked.around(x).records()
        claimed = [part["set"] for part in document.head["parts"]]
        if len(wanted) != len(claimed):
            return f"it is about {len(claimed)} sets, {self.asked.threat} are {len(wanted)}"
        for record, claim in zip(wanted, claimed, strict=True):
            wrong = _difference(record, claim, document, x.numel())
            if wrong:
                return f"it is not about example {index} of the data, {self.asked}: {wrong}"
        return ""


def _difference(wanted: SetRecord, claimed: dict[str, object], document: Document, size: int) -> str:
    """What differs between two sets; empty where they are the same, number by number.

    Args:
        size: numbers in an input; what has as many may be in another shape, as models of one function may want.
    """
    if claimed["kind"] != wanted.kind:
        return f"its set is of kind {claimed['kind']}"
    if set(claimed) != {"kind", *wanted.options, *wanted.arrays}:
        return "its set has other limits"
    for name, option in wanted.options.items():
        if claimed[name] != option:
            return f"its {name} is {claimed[name]}, not {option}"
    for name, array in wanted.arrays.items():
        own = document.arrays[str(claimed[name])]
        if array.size == own.size == size:
            own, array = own.ravel(), array.ravel()
        if not np.array_equal(own, array):
            return f"its {name} differs"
    return ""
