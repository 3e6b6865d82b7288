"""`verifier certify`: a labelled test set, into a store. Light: torch is loaded where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.options import (
    DEVICE,
    STAGES,
    DataOptions,
    ModelOptions,
    PartOptions,
    PerturbationOptions,
    QuestionOptions,
)
from verifier.commands.shared import say, stage_names
from verifier.commands.show import print_table

if TYPE_CHECKING:
    from verifier.certification import Report


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """How the examples are decided."""

    stages: Annotated[str | None, STAGES] = None
    device: Annotated[str | None, DEVICE] = None
    batch_size: Annotated[int | None, typer.Option(help="Examples that are worked on together at most.")] = None
    budget: Annotated[float | None, typer.Option(help="Seconds per batch; by default no limit.")] = None
    example_budget: Annotated[
        float, typer.Option(help="Seconds per example, after which it stays unknown; inf for no limit.")
    ] = 60.0
    jobs: Annotated[int | None, typer.Option(help="Processes that work side by side and share the cores.")] = None
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: auto for the one on this machine, or host:port."),
    ] = None
    semantics: Annotated[
        str,
        typer.Option(
            help="real: the network over the real numbers; float32: as hardware runs it, summing in any order."
        ),
    ] = "real"


def certify(
    network: ModelOptions,
    data: DataOptions,
    part: PartOptions,
    asked: PerturbationOptions,
    about: QuestionOptions,
    how: CertifyOptions,
    out: Annotated[Path, typer.Option(help="SQLite file to write; one durable row per example.")],
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Only every n-th example, from the k-th on; `merge` makes one store of all."),
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="Folder to write a certificate to for every proof; `check` reads them.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out, also with more examples; start it if there is none."),
    ] = False,
    retry: Annotated[
        str,
        typer.Option(
            metavar="unknown|error|unknown,error",
            help="In the run in --out, try again what is unknown, or raised an error, with the stages and budgets "
            "given now; what is decided stays. Implies --resume.",
        ),
    ] = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress; the table is still printed, and warnings are.")
    ] = False,
) -> None:
    """Certify a test set: which answers no perturbation of size eps can change.

    An answer is the label, or what --question or --threshold ask about.
    """
    from verifier.certification import certify as run

    clip, question = asked.limits, about.asked()
    examples = data.examples(part, clipped=clip is not None, quiet=quiet, labelled=about.labelled(question))
    report = run(
        about.network(network),
        examples.images,
        examples.labels,
        asked.eps,
        threat=asked.threat,
        clip=clip,
        question=question,
        store=out,
        resume=resume,
        retry=retry or (),
        stages=stage_names(how.stages),
        device=how.device,
        batch_size=how.batch_size,
        budget=how.budget,
        example_budget=None if how.example_budget == float("inf") else how.example_budget,
        first_index=examples.first_index,
        shard=shard,
        certificates=certificates,
        semantics=how.semantics,
        jobs=how.jobs,
        executor=None if how.ray is None else f"ray:{how.ray}",
        progress=not quiet,
    )
    print_table(report)
    if certificates is not None:
        _say_missing(certificates)
    _exit_on_errors(report, out)


def _say_missing(certificates: Path) -> None:
    """How many proofs have no certificate, and why the first of them has none."""
    from verifier.certification.certificates import missing

    why = missing(certificates)
    if why:
        first = min(why)
        proofs = "1 proof has" if len(why) == 1 else f"{len(why)} proofs have"
        say(f"note: {proofs} no certificate; the first, at index {first}: {why[first]}")


def _exit_on_errors(report: Report, out: Path) -> None:
    """Says how many examples raised; a run in which all did has proved nothing, and fails."""
    from verifier.certification import ExampleOutcome

    raised = [e for e in report.rows() if e.outcome is ExampleOutcome.ERROR]
    if raised:
        examples = "1 example" if len(raised) == 1 else f"{len(raised)} examples"
        say(f"warning: {examples} raised an error; `verifier show {out} --failures` lists them")
        say(f"the first, at index {raised[0].index}: {raised[0].error}")
    if raised and len(raised) == len(report.rows()):  # of a shard without examples nothing is wrong
        raise typer.Exit(1)
