"""`verifier bench`: a list of instances. Light: torch is loaded where it is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.answer_options import AnswerOptions
from verifier.commands.exit_code import ExitCode
from verifier.commands.options import STAGES, limit_of
from verifier.commands.shared import at_least_one, check_target, exported, say, time_limit
from verifier.commands.vnnlib_output import ending
from verifier.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verifier.vnncomp.bench_list import Instance
    from verifier.vnncomp.bench_settings import BenchSettings


@dataclass(frozen=True, kw_only=True)
class InstanceOptions:
    """Which instances of the list, and how long each may take."""

    timeout: Annotated[
        float, limit_of("Seconds per instance, where the list allows more (of folders by default 120)")
    ] = float("inf")
    first: Annotated[int | None, typer.Option(help="Only the first N instances, after --filter.")] = None
    filter_: Annotated[str | None, typer.Option("--filter", help="Only instances with this in their names.")] = None

    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", help="Only every N-th of those, from the K-th on; `merge` makes one folder of all."
        ),
    ] = None

    def of(self, places: Sequence[Path]) -> list[Instance]:
        """The instances asked for, of the list in a file, or of folders. Raises InputError."""
        from verifier.certification.shard import Shard

        at_least_one(first=self.first)
        part = Shard.parse(self.shard)
        limit = time_limit(self.timeout)
        listed = self._listed(places, limit)
        if self.filter_ is not None:
            listed = [instance for instance in listed if self.filter_ in instance.name]
        if not listed:
            raise InputError(f"{', '.join(map(str, places))} has no such instances: nothing to do")
        return [instance for k, instance in enumerate(listed[: self.first]) if part.has(k)]

    def _listed(self, places: Sequence[Path], limit: float | None) -> list[Instance]:
        from verifier.vnncomp.bench_list import instances_of
        from verifier.vnncomp.folder import DEFAULT_TIMEOUT, instances_in, is_network, is_property

        if len(places) == 1 and not (places[0].is_dir() or is_network(places[0]) or is_property(places[0])):
            return instances_of(places[0], self.timeout)
        return instances_in(places, DEFAULT_TIMEOUT if limit is None else limit)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How the list is run."""

    out: Annotated[Path | None, typer.Option(help="Folder for results.csv and the result files.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; start it if none.")] = False
    jobs: Annotated[int, typer.Option(help="Instances at a time, each in a process of its own.")] = 1
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Decide them on a Ray cluster: auto for the one on this machine, or host:port."
        ),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="Threads of each instance; on Ray also its cores, by default one.")
    ] = None
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Processes forked by warm workers: no start-up, the same answers.")
    ] = False
    stages: Annotated[str | None, STAGES] = None
    certificates: Annotated[
        Path | None, typer.Option(help="Folder for the certificates of each unsat, in a folder of the instance's name.")
    ] = None

    def settings(self) -> BenchSettings:
        """The same for the run. Raises InputError."""
        from verifier.vnncomp.bench_settings import BenchSettings

        at_least_one(jobs=self.jobs, threads=self.threads)
        if self.in_process and not hasattr(os, "fork"):
            raise InputError("--in-process forks processes, which this system cannot: leave it out")
        if self.ray is not None and self.jobs != 1:
            raise InputError("give --jobs or --ray, not both: a Ray cluster has as many workers as it has cores")
        return BenchSettings(
            self.out, self.resume, self.jobs, self.threads, self.in_process, self.stages,
            None if self.ray is None else f"ray:{self.ray}", self.certificates,
        )  # fmt: skip


def bench(
    instances: Annotated[
        list[Path],
        typer.Argument(
            help="csv file: onnx,vnnlib,timeout[,expected]; paths relative to it, a header optional. Or networks, "
            "properties and folders of them: every property of every network."
        ),
    ],
    which: InstanceOptions,
    how: BenchOptions,
    answer: AnswerOptions,
    plot: Annotated[Path | None, typer.Option(help="Cactus plot: solved instances against time (PNG).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the table, and what is wrong.")] = False,
) -> None:
    """Decide a list of instances, compare with what is expected, and print a table.

    Exit code 1 where an answer contradicts the list, or a witness does not hold when it is checked again, or all are
    errors; 2 where some are, as of a file that cannot be used, when the others are decided.
    """
    from verifier.ci.decided import bench_record
    from verifier.vnncomp.bench import run
    from verifier.vnncomp.bench_report import cactus, print_report

    if plot is not None:
        from verifier.comparison.plot import needs_matplotlib

        needs_matplotlib()
        check_target("--plot", plot)
    answer.check()
    settings = how.settings()
    listed = which.of(instances)
    rows = run(listed, settings, None if quiet else say)
    print_report(rows, answer.stdout_taken)
    if plot is not None:
        exported(plot, lambda path: cactus(rows, path))
    about = {"instances": [str(place) for place in instances], "stages": how.stages}
    unmet = answer.give(bench_record(rows, listed, about)) if answer.asked else ExitCode.DONE
    raise typer.Exit(ending(rows, unmet))
