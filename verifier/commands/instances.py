"""`verifier vnnlib` and `verifier bench` among the other commands. Light: torch is loaded where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verifier.commands.shared import exported, say, user_errors
from verifier.errors import InputError


def vnnlib(context: typer.Context) -> None:
    """Decide a VNN-LIB property of an ONNX network: prints sat, unsat, unknown, timeout or error."""
    from verifier.commands.vnnlib import run

    raise typer.Exit(run(context.args))


def bench(
    instances: Annotated[
        Path, typer.Argument(help="csv file: onnx,vnnlib,timeout[,expected]; paths relative to it, a header optional.")
    ],
    timeout: Annotated[float, typer.Option(help="Seconds per instance, where the list allows more.")] = float("inf"),
    out: Annotated[Path | None, typer.Option(help="Folder for results.csv and the result files.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; start it if none.")] = False,
    first: Annotated[int | None, typer.Option(help="Only the first N instances, after --filter.")] = None,
    filter_: Annotated[str | None, typer.Option("--filter", help="Only instances with this in their names.")] = None,
    jobs: Annotated[int, typer.Option(help="Instances at a time, each in a process of its own.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each instance.")] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="All in this process: no start-up, but no hard time limit either.")
    ] = False,
    stages: Annotated[str | None, typer.Option(help="As in `vnnlib`.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Cactus plot: solved instances against time (PNG).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the table, and what is wrong.")] = False,
) -> None:
    """Decide a list of instances, compare with what is expected, and print a table.

    Exit code 1 where an answer contradicts the list, or a witness does not hold when it is checked again.
    """
    with user_errors():
        from verifier.commands.vnnlib import check_out, time_limit
        from verifier.vnncomp.bench import BenchSettings, run
        from verifier.vnncomp.bench_list import instances_of
        from verifier.vnncomp.bench_report import cactus, print_report

        if plot is not None:
            from verifier.comparison.plot import needs_matplotlib

            needs_matplotlib()
            check_out(plot)
        for name, value in (("--jobs", jobs), ("--threads", threads), ("--first", first)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if in_process and jobs > 1:
            raise InputError("--jobs needs processes: not with --in-process")
        time_limit(timeout)
        listed = instances_of(instances, timeout)
        if filter_ is not None:
            listed = [instance for instance in listed if filter_ in instance.name]
        listed = listed[:first]
        if not listed:
            raise InputError(f"{instances} has no such instances: nothing to do")
        settings = BenchSettings(out, resume, jobs, threads, in_process, stages)
        rows = run(listed, settings, None if quiet else say)
        wrong = print_report(rows)
        if plot is not None:
            exported(plot, lambda path: cactus(rows, path))
        if wrong:
            raise typer.Exit(1)
