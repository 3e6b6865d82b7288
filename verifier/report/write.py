"""From what people have to the page: stores with their inputs and certificates, results of lists, one instance."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from verifier.certification.dataset import Images, Labels
from verifier.certification.report import Report, same_file
from verifier.checker.audit import NETWORK
from verifier.errors import InputError
from verifier.files import text_replaced
from verifier.graph.runner import ImportedModel
from verifier.report.certificates import of_run
from verifier.report.inputs import Inputs
from verifier.report.network import GivenNetwork
from verifier.report.page import Chapter, render
from verifier.report.subjects import CertifyRun, CertifyRuns
from verifier.report.words import short
from verifier.version import __version__

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PathLike = str | os.PathLike[str]


def html_report(
    runs: Report | PathLike | Sequence[Report | PathLike],
    out: PathLike,
    *,
    model: nn.Module | ExportedProgram | ImportedModel | None = None,
    images: Images | None = None,
    labels: Labels | None = None,
    certificates: PathLike | Sequence[PathLike] | None = None,
    pixels: tuple[int, ...] | None = None,
    jobs: int | None = None,
) -> None:
    """Writes one self-contained page of HTML on a run of `certify`, or on several: it fetches nothing when it is read.

    It shows what was asked, the verdicts and their trust, also by class, what every stage decided, margins,
    counterexamples as pictures, what stayed open, what the checker says of certificates, and errors; of several runs
    also their accuracies over eps. The page is written whole or not at all, and is the same for the same runs but for
    the time that it states.

    Args:
        runs: reports, or paths of stores.
        out: the file to write.
        model: the network of the runs, as `certify` takes it: by its sha256 it must be theirs. With it, and images,
            the page says what it calls each counterexample, and whether certificates are about it.
        images, labels: the data that the runs are of, [N, *input] and [N]: of more than a run's examples those of its
            indices are taken. They must be the run's own by their sha256. Without them counterexamples are drawn alone.
        certificates: the folder of a run's certificates, one for each run, or a sweep's; they are checked while the
            page is made.
        pixels: the shape to draw inputs in, such as (28, 28), where the network takes them in another one.
        jobs: processes that check certificates; None: one per core.

    Raises:
        InputError: no run, data or a model that are not a run's, folders without certificates or more of them than
            runs, or jinja2 or matplotlib is missing (extra `report`).
        StoreError: a store cannot be read. OSError: the file cannot be written.
    """
    given = [runs] if isinstance(runs, Report | str | os.PathLike) else list(runs)
    if not given:
        raise InputError("there is no run to report on")
    if (images is None) != (labels is None):
        raise InputError("images and labels go together")
    if model is not None and images is None:
        raise InputError("a model goes together with images and labels (--model with --data)")
    reports = [one if isinstance(one, Report) else Report.open(one) for one in given]
    folders = _folders(certificates, reports)
    _check_target(Path(out), [report.store for report in reports if report.store is not None])
    chapters, network = [], None
    for k, (report, folder) in enumerate(zip(reports, folders, strict=True), 1):
        name = f"run {k}" if report.store is None else report.store.name
        inputs = None if images is None or labels is None else Inputs.of(report, name, images, labels)
        if model is not None and network is None and inputs is not None:
            network = GivenNetwork(model, inputs.example())
        if network is not None:
            network.check(report.meta["model"], name)
        checked = None if folder is None else of_run(Path(folder), report, inputs, network, jobs)
        title = f"{name}: {short(report.meta['settings'])}"
        chapters.append(Chapter(title, CertifyRun(name, report, inputs, checked, pixels, network)))
    if len(chapters) == 1:
        title, chapters = f"Certification of {chapters[0].title}", [Chapter("", chapters[0].subject)]
    else:
        every = [one.subject for one in chapters if isinstance(one.subject, CertifyRun)]
        title = f"Certification: {len(every)} runs"
        chapters.insert(0, Chapter("Overview", CertifyRuns(every)))
    write_page(title, chapters, Path(out))


def write_page(title: str, chapters: Sequence[Chapter], out: Path) -> None:
    """Renders and writes a page, stating the time. Raises InputError as `render`, and OSError."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text_replaced(out, render(title, chapters, made=now, version=__version__))


def _folders(
    certificates: PathLike | Sequence[PathLike] | None, reports: Sequence[Report]
) -> Sequence[PathLike | None]:
    """A folder or none for each run; of a sweep's folder that of the run's radius."""
    if certificates is None:
        return [None] * len(reports)
    given = [certificates] if isinstance(certificates, str | os.PathLike) else list(certificates)
    if len(given) == 1 and not (Path(given[0]) / NETWORK).is_file():
        inside = [Path(given[0]) / f"eps-{report.meta['settings']['eps']!r}" for report in reports]
        if all(folder.is_dir() for folder in inside):
            return inside
    if len(given) != len(reports):
        raise InputError(
            f"there are {len(given)} folders of certificates for {len(reports)} runs: give one for each, in their order"
        )
    return given


def _check_target(out: Path, stores: Sequence[Path]) -> None:
    for store in stores:
        for suffix in ("", "-journal", ".lock"):
            if same_file(out, store.with_name(store.name + suffix)):
                raise InputError(f"{out} belongs to the store {store}: write the page to another file")
