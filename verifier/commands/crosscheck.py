"""`verifier crosscheck`: every kind of bound against the others. Light: torch is loaded where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from verifier.commands.exit_code import ExitCode
from verifier.commands.options import CLIP, EPS, FIRST, DataOptions, ModelOptions, PartOptions, limit_of
from verifier.commands.shared import check_target, exported, say, valid_range
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.comparison.report import CrossCheck

#: examples that are compared, where nothing else is asked for
_COMPARED = 50


@dataclass(frozen=True, kw_only=True)
class ComparedOptions(PartOptions):
    """Which of a file's examples."""

    name: ClassVar[str] = "--n"

    first: Annotated[int | None, typer.Option("--n", "--first", help=FIRST)] = None

    def of(self, total: int, most: int | None = None) -> range:
        """As of any part. Raises InputError where there are no examples."""
        if total == 0:
            raise InputError("the data have no examples: nothing to check")
        return super().of(total, most)


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """What the linear and integer programs may cost."""

    exact_seconds: Annotated[
        float, limit_of("Seconds for each row's integer program, left out where they are over (0: none)", endless=False)
    ] = 2.0
    workers: Annotated[int | None, typer.Option(help="Processes that solve; 0: none; by default one per core.")] = None


@dataclass(frozen=True, kw_only=True)
class ComparisonFiles:
    """Where the comparison is written to."""

    csv: Annotated[Path | None, typer.Option(help="Write one line per row to this CSV file.")] = None
    plot: Annotated[Path | None, typer.Option(help="Draw the gaps to the LP to this PNG file.")] = None

    def check(self) -> None:
        """Raises InputError where one could not be written: known now rather than in minutes."""
        check_target("--csv", self.csv)
        check_target("--plot", self.plot)
        if self.plot is not None:
            from verifier.comparison.plot import needs_matplotlib

            needs_matplotlib()

    def write(self, report: CrossCheck) -> None:
        """Writes those that are asked for. Raises InputError."""
        for path, export in ((self.csv, report.to_csv), (self.plot, report.plot)):
            if path is not None:
                exported(path, export)


def crosscheck(
    network: ModelOptions,
    data: DataOptions,
    part: ComparedOptions,
    eps: Annotated[float, EPS],
    solving: SolverOptions,
    files: ComparisonFiles,
    clip: Annotated[str, CLIP] = "none",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Bound every margin by every method on equal intermediate bounds, and check the laws between the methods.

    On l-infinity balls around the first 50 examples, or those that --n or --indices name. Exit code 1 where a law is
    broken.
    """
    from rich.console import Console

    from verifier.certification.dataset import dataset
    from verifier.comparison import crosscheck as run

    files.check()
    limits = valid_range(clip)
    examples = data.examples(part, clipped=limits is not None, quiet=quiet, most=_COMPARED)
    test = dataset(examples.images, examples.labels)
    report = run(
        network.load(),
        test.images,
        eps,
        label=test.labels,
        clip=limits,
        exact_seconds=solving.exact_seconds,
        workers=solving.workers,
        first_index=examples.first_index,
        progress=None if quiet else say,
    )
    Console().print(report.table())
    for broken in report.violations:
        say(f"error: {report.describe(broken)}")
    files.write(report)
    if report.violations:
        raise typer.Exit(ExitCode.FAILED)
