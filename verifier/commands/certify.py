"""`verifier certify`: a labelled test set, into a store. Light: torch is loaded where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.answer_options import AnswerOptions, share
from verifier.commands.exit_code import ExitCode
from verifier.commands.networks import NetworksOptions
from verifier.commands.notes import data_warnings_said
from verifier.commands.options import (
    DEVICE,
    STAGES,
    DataOptions,
    PartOptions,
    QuestionOptions,
    limit_of,
)
from verifier.commands.shared import say, stage_names
from verifier.commands.sweep import SweepOptions, exit_on_nothing_but_errors, give_sweep

if TYPE_CHECKING:
    from verifier.certification import Report, Sweep


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """How the examples are decided."""

    stages: Annotated[str | None, STAGES] = None
    device: Annotated[str | None, DEVICE] = None
    batch_size: Annotated[int | None, typer.Option(help="Examples that are worked on together at most.")] = None
    budget: Annotated[float | None, limit_of("Seconds per batch")] = None
    example_budget: Annotated[float, limit_of("Seconds per example, after which it stays unknown")] = 60.0
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Only every n-th example, from the k-th on; `merge` makes one store of all."),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out, also with more examples; start it if there is none."),
    ] = False
    retry: Annotated[
        str,
        typer.Option(
            metavar="unknown|error|unknown,error",
            help="In the run in --out, try again what is unknown, or raised an error, with the stages and budgets "
            "given now; what is decided stays. Implies --resume.",
        ),
    ] = ""
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


@dataclass(frozen=True, kw_only=True)
class CertifyAnswer(AnswerOptions):
    """In which forms the answer is given, and what is expected of it."""

    fail_under: Annotated[
        float | None,
        typer.Option(parser=share, metavar="SHARE", help="Exit code 3 where the verified accuracy is lower: 0.9, 90%."),
    ] = None

    def end(self, report: Report, certificates: Path | None) -> ExitCode:
        """Gives what is asked for of a report, and returns how the command ends. Raises InputError."""
        if not self.asked and self.fail_under is None:
            return ExitCode.DONE
        from verifier.certification.certificates import missing
        from verifier.ci.certified import certified

        return self.give(certified(report, self.fail_under, None if certificates is None else missing(certificates)))

    def end_sweep(self, sweep: Sweep, certificates: Path | None) -> ExitCode:
        """As `end`, of each radius of a sweep."""
        if not self.asked and self.fail_under is None:
            return ExitCode.DONE
        from verifier.certification.certificates import missing
        from verifier.ci.certified import sweep_certified

        why = {} if certificates is None else {eps: missing(certificates / f"eps-{eps!r}") for eps in sweep.eps}
        return self.give(sweep_certified(sweep, self.fail_under, why))


def certify(
    network: NetworksOptions,
    data: DataOptions,
    part: PartOptions,
    asked: SweepOptions,
    about: QuestionOptions,
    how: CertifyOptions,
    answer: CertifyAnswer,
    out: Annotated[
        Path, typer.Option(help="SQLite file to write, a durable row per example; of several --eps a folder of them.")
    ],
    certificates: Annotated[
        Path | None, typer.Option(help="Folder to write a certificate to for every proof; `check` reads them.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress; the table is still printed, and warnings are.")
    ] = False,
) -> None:
    """Certify a test set: which answers no perturbation of size eps can change.

    An answer is the label, or what --question or --threshold ask about. Several --model are a cascade of networks.
    Several --eps, with commas, make a sweep: what one radius decides is not decided again at others, and --out and
    --certificates are folders.
    """
    from verifier.certification import Sweep
    from verifier.certification import certify as run

    answer.check()
    clip, question, eps = asked.limits, about.asked(), asked.asked()
    examples = data.examples(part, clipped=clip is not None, quiet=quiet, labelled=about.labelled(question))
    stages = stage_names(how.stages)
    model = network.load(about, None if isinstance(eps, list) else asked.of(eps), stages)
    if not quiet:
        say(examples.said)
    with data_warnings_said():
        report = run(
            model,
            examples.images,
            examples.labels,
            eps,
            threat=asked.threat,
            clip=clip,
            question=question,
            store=out,
            resume=how.resume,
            retry=how.retry or (),
            stages=stages,
            device=how.device,
            batch_size=how.batch_size,
            budget=how.budget,
            example_budget=None if how.example_budget == float("inf") else how.example_budget,
            first_index=examples.first_index,
            shard=how.shard,
            certificates=certificates,
            semantics=how.semantics,
            jobs=how.jobs,
            executor=None if how.ray is None else f"ray:{how.ray}",
            progress=not quiet,
        )
    if isinstance(report, Sweep):
        give_sweep(report, out, asked.plot, answer.print)
        unmet = answer.end_sweep(report, certificates)
        exit_on_nothing_but_errors(report)
        raise typer.Exit(unmet)
    answer.print(report.table())
    if certificates is not None:
        _say_missing(certificates)
    unmet = answer.end(report, certificates)
    _exit_on_errors(report, out)
    raise typer.Exit(unmet)


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
        raise typer.Exit(ExitCode.FAILED)
