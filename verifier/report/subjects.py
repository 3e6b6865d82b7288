"""What a page may report on: runs of `certify`, a list of instances, one instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from properties.vnnlib import Property
from verifier.certification.example import ExampleOutcome, ExampleRow
from verifier.certification.report import Report
from verifier.checker.audit import Audited
from verifier.report.inputs import Inputs
from verifier.report.network import GivenNetwork
from verifier.report.peer import PeerAnswer
from verifier.vnncomp.answer import InstanceStatus
from verifier.vnncomp.bench import BenchRow


@dataclass(frozen=True)
class CheckedFolder:
    """A folder of certificates, and what the checker said of each.

    Args:
        network: sha256 of the network that they were checked against, the file beside them.
        own: whether that is the run's own network; None: that was not given.
        compared: what the certificates were compared with beside the network, in words; empty: nothing.
        missing: number -> why a proof has no certificate.
        command: what checks them again.
        uncovered: why they do not prove a property, where they are about one.
    """

    network: str
    found: Sequence[Audited]
    compared: str
    missing: Mapping[int, str]
    command: str
    uncovered: Sequence[str] = ()
    own: bool | None = None


@dataclass(frozen=True)
class CertifyRun:
    """One store of `certify`, and what was given beside it.

    Args:
        inputs: of the run, by the digest in its store; None: they were not given.
        pixels: the shape to draw inputs in, where the network takes them in another one.
        network: the run's own, by its digest; None: it was not given.
    """

    name: str
    report: Report
    inputs: Inputs | None = None
    certificates: CheckedFolder | None = None
    pixels: tuple[int, ...] | None = None
    network: GivenNetwork | None = None

    @cached_property
    def rows(self) -> tuple[ExampleRow, ...]:
        return self.report.rows()

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self.report.summary()

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.report.meta["settings"]

    @property
    def named(self) -> bool:
        """Whether a question by name was asked, and not whether the label stays."""
        return self.settings.get("question") is not None

    def broken(self, row: ExampleRow) -> bool:
        """Whether a perturbation was found that changes the answer, and not the answer was wrong before."""
        return row.outcome is ExampleOutcome.FALSIFIED and (self.named or row.correct)

    def input_of(self, row: ExampleRow) -> np.ndarray | None:
        """The clean input [*input] of an example, where the data were given."""
        return None if self.inputs is None else self.inputs[row.index]

    def prediction_at(self, row: ExampleRow) -> int | None:
        """The network's class at a counterexample, worked out anew; None where the network was not given."""
        found = self.report.counterexample(row.index)
        return None if self.network is None or found is None else self.network.prediction(found)

    def counterexample(self, row: ExampleRow) -> np.ndarray | None:
        """[*input]; None where there is none."""
        found = self.report.counterexample(row.index)
        return None if found is None else found.double().numpy()


@dataclass(frozen=True)
class CertifyRuns:
    """Several runs, side by side."""

    runs: Sequence[CertifyRun]


@dataclass(frozen=True)
class BenchRun:
    """The results of a list of instances.

    Args:
        peer: name of another tool or run, and its answers by the names of instances; None: there is none.
        certificates: of every unsat by the name of its instance, or why they cannot be checked; None: not given.
        sessions: versions and settings (verifier.vnncomp.bench_about); none where they were not kept.
    """

    name: str
    rows: Sequence[BenchRow]
    peer: tuple[str, Mapping[str, PeerAnswer]] | None = None
    certificates: Mapping[str, CheckedFolder | str] | None = None
    sessions: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class InstanceRun:
    """One instance of `vnnlib`: its files, its answer, and what stands behind that.

    Args:
        networks: name in the property ("" where there is one) -> file.
        witness: inputs [n] and outputs [m] as the result file has them.
        doubt: why the witness does not hold when it is checked again; empty where it does.
        shape: of the network's input, where it has one.
    """

    result: Path
    status: InstanceStatus
    networks: Mapping[str, Path]
    property_file: Path
    asked: Property
    witness: tuple[Sequence[float], Sequence[float]] | None = None
    doubt: str = ""
    certificates: CheckedFolder | None = None
    pixels: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
