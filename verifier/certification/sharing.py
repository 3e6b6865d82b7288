"""What runs of one question at other radii already say of a radius.

A counterexample counts at every radius whose set holds it, which the set itself decides. A proof counts at every
smaller radius where the sets are nested (`InputSet.nested`): the larger set holds the smaller one, so that what is
proved of all its points is proved of these, by the same certificate and with the same trust.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from properties import InputSet, Perturbation
from verifier.certification.dataset import Dataset
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow
from verifier.certification.report import Report
from verifier.certification.store import RunIdentity, Store
from verifier.errors import InternalError
from verifier.verdict import Trust

#: rows that are known of a run before it starts, given what it is, the indices that it has rows of already, and the
#: precision of the network's inputs
Known = Callable[[RunIdentity, Collection[int], torch.dtype], Sequence[ExampleRecord]]

#: settings that may differ between two runs which ask the same of the same network, but for the radius
_HOW = frozenset(("eps", "stages", "device", "dtype", "batch_size", "budget", "example_budget"))


@dataclass(frozen=True)
class Source:
    """The rows of a run at one radius, and its counterexamples."""

    report: Report
    path: Path | None = None  #: its store; None: in memory

    @property
    def eps(self) -> float:
        return float(self.report.meta["settings"]["eps"])

    def asks(self, identity: RunIdentity) -> bool:
        """Whether it is about the same network, data and question, at whatever radius."""
        meta, other = self.report.meta, json.loads(json.dumps(identity.as_meta()))
        same = all(meta[key] == other[key] for key in ("model", "data", "examples"))
        return same and _question(meta["settings"]) == _question(other["settings"])

    @contextmanager
    def counterexamples(self) -> Iterator[Callable[[int], Tensor | None]]:
        """Of an index, the counterexample [*input]: from the store, which is opened once."""
        if self.path is None:
            yield self.report.counterexample
            return
        with Store.open(self.path) as store:
            yield store.counterexample


def _question(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _HOW}


@dataclass(frozen=True)
class Sharing:
    """Gives a run what the runs at other radii know of its examples."""

    data: Dataset
    sources: Sequence[Source]

    def known(self, identity: RunIdentity, finished: Collection[int], dtype: torch.dtype) -> list[ExampleRecord]:
        """The rows that follow for a run, of examples that it has no row of yet.

        Args:
            finished: indices of those that it has. dtype: of the network's inputs.

        Raises:
            InternalError: a counterexample lies in a set that is proved with every rounding accounted for.
        """
        settings = identity.settings
        asked = Perturbation(settings["eps"], settings["threat"], settings["clip"])
        sources = [s for s in self.sources if s.asks(identity) and s.eps != asked.eps]
        first = int(settings["first_index"])
        left = [index for index in range(first, first + identity.examples) if index not in finished]

        def around(indices: Sequence[int]) -> InputSet:
            return asked.around(self.data.images[[i - first for i in indices]])

        broken = _falsified(asked, sources, left, lambda indices: around(indices).representable(dtype))
        proved = _verified(asked, sources, left)
        asis = [i for i in proved if _as_it_is(around([i]), dtype)]
        for index in broken.keys() & set(asis):
            if proved[index].example.trust is Trust.CHECKED:
                raise InternalError(
                    f"example {index} is proved at a larger radius than {asked.eps:g}, and its counterexample "
                    f"({broken[index].example.stage}) lies in that set: one of the two is wrong"
                )
        found = {i: proved[i] for i in asis} | broken
        return [found[i] for i in sorted(found)]


def _as_it_is(inputs: InputSet, dtype: torch.dtype) -> bool:
    """Whether it is these sets that are asked about; a hull of a small set need not lie in a larger set."""
    return inputs.representable(dtype) is inputs


def _verified(asked: Perturbation, sources: Iterable[Source], left: Sequence[int]) -> dict[int, ExampleRecord]:
    """What a proof at a larger radius says: the nearest that was found at its own radius."""
    found: dict[int, ExampleRecord] = {}
    for source in sorted((s for s in sources if s.eps > float(asked.eps) and asked.nested), key=lambda s: s.eps):
        rows = {e.index: e for e in source.report.rows() if e.outcome is ExampleOutcome.VERIFIED and not shared(e)}
        for index in (i for i in left if i in rows and i not in found):
            row = replace(rows[index], stage=_from(source, rows[index]), attack_margin=math.inf, seconds=0.0)
            found[index] = ExampleRecord(row)
    return found


def _falsified(
    asked: Perturbation, sources: Iterable[Source], left: Sequence[int], meant: Callable[[Sequence[int]], InputSet]
) -> dict[int, ExampleRecord]:
    """Where a counterexample of another radius lies in the set that is asked about; those of smaller radii first."""
    found: dict[int, ExampleRecord] = {}
    for source in sorted(sources, key=lambda s: (s.eps > float(asked.eps), abs(s.eps - float(asked.eps)))):
        rows = {e.index: e for e in source.report.rows() if e.outcome is ExampleOutcome.FALSIFIED}
        with source.counterexamples() as counterexample:
            candidates = ((i, counterexample(i)) for i in left if i in rows and i not in found)
            points = {i: point for i, point in candidates if point is not None}
        if not points:
            continue
        inside = meant(list(points)).contains(torch.stack(list(points.values())))
        for (index, point), member in zip(points.items(), inside.tolist(), strict=True):
            if member:
                found[index] = ExampleRecord(_broken(rows[index], source, asked), point)
    return found


def _broken(row: ExampleRow, source: Source, asked: Perturbation) -> ExampleRow:
    """Bounds of a smaller set are none of a larger one, nor is the worst point of a larger set one of a smaller."""
    changes: dict[str, Any] = {"stage": _from(source, row), "seconds": 0.0}
    if source.eps > float(asked.eps):
        changes["attack_margin"] = None
    elif row.margins is not None:
        lost = tuple(m if m == math.inf else -math.inf for m in row.margins)
        changes |= {"margin": min(lost), "margins": lost}
    return replace(row, **changes)


#: what the name of the stage begins with in a row that another radius decided
_EPS = "eps "


def shared(row: ExampleRow) -> bool:
    """Whether a row was decided at another radius: its stage then says at which, such as "eps 0.1: dual"."""
    return row.stage is not None and row.stage.startswith(_EPS)


def _from(source: Source, row: ExampleRow) -> str:
    return str(row.stage) if shared(row) else f"{_EPS}{source.eps:g}: {row.stage}"
