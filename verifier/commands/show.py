"""`verifier show`: what a run found. Light: torch is loaded where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.answer import STDOUT, Answers, written
from verifier.commands.shared import exported
from verifier.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from verifier.certification import Report


def show(
    store: Annotated[Path, typer.Argument(help="SQLite file of a run, or folder of a sweep; it may still be running.")],
    csv: Annotated[Path | None, typer.Option(help="Write one line per example to this CSV file.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write settings, summary and examples to this JSON file; - is stdout alone.")
    ] = None,
    failures: Annotated[bool, typer.Option("--failures", help="List the examples that were not proved.")] = False,
) -> None:
    """Print the table of a run, list what was not proved, and export it."""
    from verifier.certification import Report
    from verifier.certification.report import same_file

    if csv is not None and json is not None and same_file(csv, json):
        raise InputError(f"--csv and --json are one file, {csv}: give two")
    answer = Answers(json=json)
    if store.is_dir():
        _show_sweep(store, csv, json, failures, answer)
        return
    report = Report.open(store)
    answer.print(report.table())
    if failures:
        _say_failures(report, answer.say)
    if answer.stdout_taken:
        written(Path(STDOUT), report.json())
    for path, export in ((csv, report.to_csv), (None if answer.stdout_taken else json, report.to_json)):
        if path is not None:
            exported(path, export)


def _show_sweep(folder: Path, csv: Path | None, json: Path | None, failures: bool, answer: Answers) -> None:
    from verifier.certification import Sweep

    if failures:
        raise InputError(f"--failures lists the examples of one radius: name its store, a file in {folder}")
    sweep = Sweep.open(folder)
    answer.print(sweep.table())
    if answer.stdout_taken:
        written(Path(STDOUT), sweep.json())
    for path, export in ((csv, sweep.to_csv), (None if answer.stdout_taken else json, sweep.to_json)):
        if path is not None:
            exported(path, export)


def _say_failures(report: Report, say: Callable[[str], None]) -> None:
    from verifier.certification import ExampleOutcome

    say("index label prediction verdict margin attack_margin why")
    for e in report.rows():
        if e.outcome is not ExampleOutcome.VERIFIED:
            numbers = ("-" if m is None else f"{m:.4g}" for m in (e.margin, e.attack_margin))
            prediction = "-" if e.prediction is None else e.prediction
            why = e.error or (e.reason.value if e.reason else e.stage or "")
            say(" ".join(map(str, (e.index, e.label, prediction, e.outcome.value, *numbers, why))))
