"""What runs of one question at other radii already say of a radius.

A counterexample counts at every radius whose set holds it, which the set itself decides. A proof counts at every
smaller radius where the sets are nested (`InputSet.nested`): the larger set holds the smaller one, so that what is
proved of all its points is proved of these, by the same certificate and with the same trust.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from properties import InputSet, Perturbation
from verifier.certification import old
from verifier.certification.dataset import Dataset
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow
from verifier.certification.identity import EFFORT, RunIdentity, differences
from verifier.certification.report import Report
from verifier.certification.store import Store
from verifier.errors import InternalError
from verifier.verdict import Trust

#: rows that are known of a run before it starts, given what it is, the indices that it has rows of already, the
#: precision of the network's inputs, and the place of the session in the store
Known = Callable[[RunIdentity, Collection[int], torch.dtype, int], Sequence[ExampleRecord]]


@dataclass(frozen=True)
class Source:
    """The rows of a run at one radius, and its counterexamples."""

    report: Report
    examples: Mapping[int, str]  #: index of each example -> its digest (`RunIdentity.examples`)
    path: Path | None = None  #: its store; None: in memory

    @classmethod
    def open(cls, path: Path) -> Source:
        """The run in a store, as far as it has come. Raises StoreError as `Report.open`."""
        with Store.open(path) as store:
            report = Report.of(store)
            return cls(report, {} if report.meta["schema"] == old.VERSION else store.data(), path)

    @property
    def eps(self) -> float:
        return float(self.report.meta["settings"]["eps"])

    def asks(self, identity: RunIdentity) -> bool:
        """Whether it is about the same network and question, at whatever radius."""
        return not differences(self.report.meta, identity.as_meta(), leave_out=("eps", *EFFORT))

    def rows(self, outcome: ExampleOutcome, identity: RunIdentity) -> dict[int, ExampleRow]:
        """Those of one outcome, by index, of examples that are the run's own."""
        same = (e for e in self.report.rows() if self.examples.get(e.index) == identity.examples.get(e.index, ""))
        return {e.index: e for e in same if e.outcome is outcome}

    @contextmanager
    def counterexamples(self) -> Iterator[Callable[[int], Tensor | None]]:
        """Of an index, the counterexample [*input]: from the store, which is opened once."""
        if self.path is None:
            yield self.report.counterexample
            return
        with Store.open(self.path) as store:
            yield store.counterexample


@dataclass
class Sharing:
    """Gives a run what the runs at other radii know of its examples.

    Args:
        sources: by radius; runs that come later may be added.
        examples: index of each example of the data -> its digest (`RunIdentity.examples`).
    """

    data: Dataset
    sources: Mapping[float, Source]
    examples: Mapping[int, str]
    dtype: torch.dtype | None = None  #: of the network's inputs, as the first run says

    def known(
        self, identity: RunIdentity, finished: Collection[int], dtype: torch.dtype, session: int
    ) -> list[ExampleRecord]:
        """The rows that follow for a run, of examples that it has no row of yet (`Known`)."""
        self.dtype = dtype
        return self._following(identity, finished, session)

    def settled(self, source: Source) -> Source:
        """A run of this sharing's with what follows for the examples that it left open, in its store, too.

        Raises:
            StoreError: it cannot be written.
        """
        meta, rows = source.report.meta, source.report.rows()
        decided = {e.index for e in rows if e.outcome is not ExampleOutcome.UNKNOWN}
        identity = RunIdentity(meta["model"], meta["settings"], self.examples)
        session = len(meta["sessions"]) - 1
        follows = self._following(identity, decided | (self.examples.keys() - {e.index for e in rows}), session)
        if not follows:
            return source
        if source.path is None:
            return replace(source, report=source.report.replaced(follows))
        with Store.resume(source.path, identity, again=True) as store:
            store.write(follows, 0.0, replace=True)
            return replace(source, report=Report.of(store))

    def _following(self, identity: RunIdentity, finished: Collection[int], session: int) -> list[ExampleRecord]:
        """The rows that follow for a run.

        Args:
            finished: indices of examples that are not asked about. session: what the rows say theirs is.

        Raises:
            InternalError: a counterexample lies in a set that is proved by more than a probability.
        """
        assert self.dtype is not None
        dtype = self.dtype
        settings = identity.settings
        asked = Perturbation(settings["eps"], settings["threat"], settings["clip"])
        sources = [s for s in self.sources.values() if s.eps != asked.eps and s.asks(identity)]
        position = {index: k for k, index in enumerate(identity.examples)}
        left = [index for index in position if index not in finished]

        def around(indices: Iterable[int]) -> InputSet:
            return asked.around(self.data.images[[position[i] for i in indices]])

        broken = _falsified(identity, sources, left, lambda indices: around(indices).representable(dtype))
        proved = _verified(identity, sources if asked.nested else (), left)
        asis = [i for i in proved if _as_it_is(around([i]), dtype)]
        for index in broken.keys() & set(asis):
            trust = proved[index].trust
            if trust is not None and trust > Trust.PROBABILISTIC:
                raise InternalError(
                    f"example {index} is proved at a larger radius than {asked.eps:g}, and its counterexample "
                    f"({broken[index].example.stage}) lies in that set: one of the two is wrong"
                )
        found = {i: ExampleRecord(proved[i]) for i in asis} | broken
        return [replace(f, example=replace(f.example, session=session)) for _, f in sorted(found.items())]


def _as_it_is(inputs: InputSet, dtype: torch.dtype) -> bool:
    """Whether it is these sets that are asked about; a hull of a small set need not lie in a larger set."""
    return inputs.representable(dtype) is inputs


def _verified(identity: RunIdentity, sources: Iterable[Source], left: Sequence[int]) -> dict[int, ExampleRow]:
    """What a proof at a larger radius says: the nearest that was found at its own radius."""
    found: dict[int, ExampleRow] = {}
    for source in sorted((s for s in sources if s.eps > identity.settings["eps"]), key=lambda s: s.eps):
        rows = source.rows(ExampleOutcome.VERIFIED, identity)
        for index in left:
            if index in rows and index not in found and not shared(rows[index]):
                found[index] = replace(_taken(rows[index], source), attack_margin=math.inf)
    return found


def _falsified(
    identity: RunIdentity,
    sources: Iterable[Source],
    left: Sequence[int],
    meant: Callable[[Iterable[int]], InputSet],
) -> dict[int, ExampleRecord]:
    """Where a counterexample of another radius lies in the set that is asked about; those of smaller radii first."""
    found: dict[int, ExampleRecord] = {}
    eps = identity.settings["eps"]
    for source in sorted(sources, key=lambda s: (s.eps > eps, abs(s.eps - eps))):
        rows = source.rows(ExampleOutcome.FALSIFIED, identity)
        with source.counterexamples() as counterexample:
            candidates = ((i, counterexample(i)) for i in left if i in rows and i not in found)
            points = {i: point for i, point in candidates if point is not None}
        if not points:
            continue
        inside = meant(points).contains(torch.stack(list(points.values())))
        for (index, point), member in zip(points.items(), inside.tolist(), strict=True):
            if member:
                found[index] = ExampleRecord(_broken(rows[index], source, eps), point)
    return found


def _broken(row: ExampleRow, source: Source, eps: float) -> ExampleRow:
    """Bounds of one set are none of another, nor is the worst point of a larger set one of a smaller."""
    taken = _taken(row, source)
    if source.eps > eps:
        taken = replace(taken, attack_margin=None)
    if row.margins is None:
        return taken
    lost = tuple(m if m == math.inf else -math.inf for m in row.margins)
    return replace(taken, margin=min(lost), margins=lost)


#: what the name of the stage begins with in a row that another radius decided
_EPS = "eps "


def shared(row: ExampleRow) -> bool:
    """Whether a row was decided at another radius: its stage then says at which, such as "eps 0.1: dual"."""
    return row.stage is not None and row.stage.startswith(_EPS)


def _taken(row: ExampleRow, source: Source) -> ExampleRow:
    """The row as another run has it, which spends nothing on it."""
    stage = row.stage if shared(row) else f"{_EPS}{source.eps:g}: {row.stage}"
    return replace(row, stage=stage, seconds=0.0, spent=(), attempts=1)
