"""Whether certificates are about the examples that somebody means, and not about others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

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


#: by kind the limits that make a set larger as they grow (1) or as they fall (-1); all others have to be the same
_WIDER = {
    "linf": {"eps": 1}, "l2": {"eps": 1}, "l1": {"eps": 1}, "box": {"lower": -1, "upper": 1},
    "zonotope": {"reach": 1, "rounding": 1}, "wasserstein": {"eps": 1, "rounding": 1},
}  # fmt: skip


def _difference(wanted: SetRecord, claimed: dict[str, object], document: Document, size: int) -> str:
    """Why a claimed set does not hold the wanted one, compared number by number; empty where it does.

    It does where both are of one kind and the same but for limits that are wider in the claim: what is proved of the
    larger set is proved of the smaller one.

    Args:
        size: numbers in an input; what has as many may be in another shape, as models of one function may want.
    """
    if claimed["kind"] != wanted.kind:
        return f"its set is of kind {claimed['kind']}"
    if set(claimed) != {"kind", *wanted.options, *wanted.arrays}:
        return "its set has other limits"
    wider = _WIDER.get(wanted.kind, {})
    for name, option in wanted.options.items():
        limit = claimed[name]
        if limit != option and not (name in wider and _at_least(limit, option, wider[name])):
            return f"its {name} is {limit}, not {option}"
    for name, array in wanted.arrays.items():
        own = document.arrays[str(claimed[name])]
        if array.size == own.size == size:
            own, array = own.ravel(), array.ravel()
        same = np.array_equal(own, array)
        if not same and not (name in wider and own.shape == array.shape and _at_least(own, array, wider[name])):
            return f"its {name} differs"
    return ""


def _at_least(claimed: Any, wanted: Any, sign: int) -> bool:
    """Whether all numbers claimed are as wide as those wanted. Exact: float32 numbers are float64 numbers."""
    return bool(np.all(sign * np.asarray(claimed, np.float64) >= sign * np.asarray(wanted, np.float64)))
