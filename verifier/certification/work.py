"""Units of work: some examples that a run still has to try, and what becomes of each. Both travel between processes.

A unit is a description, and knows nothing of the run's store: whoever has the run's `Job` can work on it, anywhere.
What is found goes, example by example, to the one process that writes (writer.py).
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from properties import Perturbation, Question, Specification, robustness
from verifier.api import Prepared, Verifier, prepared
from verifier.certificate.build import CertificateBuilder
from verifier.certificate.certificate import Certificate
from verifier.certification.dataset import Dataset
from verifier.certification.example import ExampleOutcome, ExampleRecord, ExampleRow, records
from verifier.errors import InputError, VerifierError
from verifier.outcome import RunWatch, StageStep
from verifier.result import Result
from verifier.stages import Stage
from verifier.verdict import Semantics


@dataclass(frozen=True)
class WorkUnit:
    """Some examples, and what may be spent on them."""

    indices: tuple[int, ...]  #: of the examples in the run
    images: Tensor  # [k, *input]
    labels: Tensor  # [k] int64
    asked: Perturbation  #: how far the images may move
    stages: tuple[int, ...] | None = None  #: which of the run's stages they still need, by their places; None: all
    seconds: float | None = None  #: for all of them together; None: no limit
    example_seconds: float | None = None  #: for each of them; None: no limit

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, places: Sequence[int]) -> WorkUnit:
        """Some of its examples, with their share of the seconds."""
        chosen = list(places)
        return replace(
            self,
            indices=tuple(self.indices[k] for k in chosen),
            images=self.images[chosen],
            labels=self.labels[chosen],
            seconds=None if self.seconds is None else self.seconds * len(chosen) / len(self),
        )


def units(
    data: Dataset,
    asked: Perturbation,
    first_index: int,
    positions: Sequence[int],
    size: int,
    seconds: float | None,
    each: float | None,
) -> Iterator[WorkUnit]:
    """The examples at some positions of the data, in units of at most so many.

    Args:
        asked: how far the images may move.
        first_index: index of the example at position 0. positions: in order.
        size: of a unit at most; none crosses a multiple of it, so that what is left of a run has the units that it had.
        seconds: for each unit. each: for each example. None: no limit.
    """
    parts: dict[int, list[int]] = {}
    for position in positions:
        parts.setdefault(position // size, []).append(position)
    for part in parts.values():
        indices = tuple(first_index + position for position in part)
        yield WorkUnit(indices, data.images[part], data.labels[part], asked, None, seconds, each)


@dataclass(frozen=True)
class Finished:
    """What became of one example: its row, and its certificate where it is VERIFIED and certificates are wanted."""

    record: ExampleRecord
    certificate: bytes | None = None  #: a file's content
    missing: str | None = None  #: why a VERIFIED has no certificate


class Sink(Protocol):
    """Is told what comes of units, in the thread that asked for it. What it raises ends the work, and is passed on."""

    def finished(self, one: Finished) -> None:
        """One example has its answer; those of a unit come in any order."""

    def begins(self, stage: str) -> None:
        """A stage begins with some examples; for the eyes alone, and not of every unit where many are worked on."""


@dataclass(frozen=True)
class Job:
    """What all units of a run have in common, whatever the size of the sets. It travels as its model and its stages do.

    Args:
        example, label: [1, *input], any valid input, and [1] its label. The others are as of `certify`.
        certified: whether certificates are made.
    """

    model: Any  # nn.Module | ExportedProgram | ImportedModel | Verifiable
    example: Tensor
    label: Tensor
    question: Question | None  #: None: does the label stay
    stages: Sequence[str | Stage] | None
    device: torch.device | None
    dtype: torch.dtype | None
    semantics: str | Semantics
    certified: bool

    def prepared(self) -> Prepared:
        """The model made ready. Raises as `certify` does, where it cannot be used."""
        return prepared(
            self.model, self.example, stages=self.stages, device=self.device, dtype=self.dtype, semantics=self.semantics
        )

    def runner(self, verifier: Prepared | None = None) -> UnitRunner:
        """Who works on this run's units in this process; `verifier`: what `prepared` gave, where it is there already.

        Raises:
            InputError: the question does not fit the network, or certificates do not. UnsupportedError: an operator
                that certificates have no kind for. And what `prepared` raises.
        """
        runner = UnitRunner(self.prepared() if verifier is None else verifier, self.question)
        spec = runner.specification(self.example, self.label)
        return replace(runner, builder=_builder(runner.verifier, spec)) if self.certified else runner


def _builder(verifier: Prepared, spec: Specification) -> CertificateBuilder:
    if not isinstance(verifier, Verifier):
        raise InputError("certificates are about one network: certify each network of a cascade by itself")
    return CertificateBuilder(verifier.proved_of(spec), verifier.semantics.value)


@dataclass(frozen=True)
class UnitRunner:
    """Works on units, in the process that it is in. Many units may be given to one runner, one after another."""

    verifier: Prepared
    question: Question | None
    builder: CertificateBuilder | None = None  #: of certificates, where they are wanted
    _parts: dict[tuple[int, ...], Verifier] = field(default_factory=dict, repr=False)

    def run(self, unit: WorkUnit, sink: Sink) -> None:
        """Tells of every example of the unit; what raises becomes a row with outcome ERROR.

        Where the whole raises, it is halved down to the examples that do. What `sink` raises is passed on.
        """
        told = _Told(unit, self, sink)
        started = time.perf_counter()
        try:
            told.settled(range(len(unit)), self._attempt(unit, told))
            return
        except Exception as error:
            if told.refused:
                raise
            if len(unit) == 1:
                sink.finished(_error(unit, error, time.perf_counter() - started))
                return
        # Outside the handler, so that what the failed attempt had allocated is free again.
        left = told.left()
        middle = (len(left) + 1) // 2
        for half in (left[:middle], left[middle:]):
            if half:
                self.run(unit.select(half), sink)

    def _attempt(self, unit: WorkUnit, watch: RunWatch) -> Result:
        region = unit.asked.around(unit.images)
        spec = self.specification(unit.images, unit.labels)
        return self._with(unit.stages).run(region, spec, unit.seconds, unit.example_seconds, watch)

    def specification(self, x: Tensor, label: Tensor) -> Specification:  # [B, *input], [B]
        """What must hold around x. Raises InputError where the question does not fit the network."""
        if self.question is None:
            return robustness(label, self.verifier.classes)
        if not isinstance(self.verifier, Verifier):
            raise InputError("questions by name are for one network, not for several whose outputs are answers")
        return self.verifier.specification(self.question, x, label)

    def finished(self, record: ExampleRecord, certificate: Certificate | None) -> Finished:
        """A row with the certificate that is wanted."""
        if certificate is None or self.builder is None:
            return Finished(record)
        about = {
            "index": record.example.index, "stage": certificate.stage, "shape": list(certificate.inputs.shape)
        }  # fmt: skip
        try:
            return Finished(record, certificate.built_by(self.builder, about).packed())
        except VerifierError as error:
            return Finished(record, missing=str(error))

    def _with(self, stages: tuple[int, ...] | None) -> Prepared:
        """The verifier with some of its stages; the same one every time, so that it learns their order."""
        if stages is None:
            return self.verifier
        if not isinstance(self.verifier, Verifier):
            raise InputError("the stages of a cascade of networks are part of it: they run together")
        if stages not in self._parts:
            self._parts[stages] = self.verifier.with_stages(stages)
        return self._parts[stages]


class _Told:
    """Watches a unit, and tells the sink; remembers what it has told, and whether the sink refused it."""

    def __init__(self, unit: WorkUnit, runner: UnitRunner, sink: Sink) -> None:
        self.unit, self.runner, self._sink = unit, runner, sink
        self.places: set[int] = set()
        self.refused = False

    @contextlib.contextmanager
    def _telling(self) -> Iterator[Sink]:
        """What the sink raises is no error of an example."""
        try:
            yield self._sink
        except Exception:
            self.refused = True
            raise

    def begins(self, stage: str) -> None:
        with self._telling() as sink:
            sink.begins(stage)

    def ended(self, step: StageStep) -> None:
        """The sink is told of examples."""

    def left(self) -> list[int]:
        """The places of the examples of which nothing has been told."""
        return [place for place in range(len(self.unit)) if place not in self.places]

    def settled(self, places: Sequence[int], result: Result) -> None:
        """Tells what was found of the examples at some places, unless that has been told: a result of theirs alone."""
        rows = records(result, [self.unit.indices[place] for place in places])
        for place, row, certificate in zip(places, rows, result.certificate, strict=True):
            if place not in self.places:
                found = self.runner.finished(row, certificate)
                self.places.add(place)
                with self._telling() as sink:
                    sink.finished(found)


def _error(unit: WorkUnit, error: Exception, seconds: float) -> Finished:
    """Of a unit of one example that raised."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    trace = "".join(traceback.format_exception(error))
    row = ExampleRow(
        unit.indices[0], int(unit.labels[0]), ExampleOutcome.ERROR, seconds=seconds, error=message, traceback=trace
    )
    return Finished(ExampleRecord(row))
