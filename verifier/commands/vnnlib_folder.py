"""`verifier vnnlib` on a folder: a line for each property of each network, each decided in a process of its own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from verifier.commands.exit_code import ExitCode
from verifier.commands.shared import at_least_one, say, time_limit
from verifier.commands.vnnlib_output import about, answers_of, ending, expected_of
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.vnncomp.bench import BenchRow
    from verifier.vnncomp.bench_list import Instance


def is_folder(options: argparse.Namespace) -> bool:
    """Whether the files named are more than one network and one property."""
    return any(Path(file).is_dir() for file in options.files)


def decide_folder(options: argparse.Namespace) -> ExitCode:
    """Decide every property of every network; on stdout a line for each: the word, the network and the property.

    Raises InputError, StoreError.
    """
    from verifier.ci.decided import folder_record
    from verifier.vnncomp.bench import results_folder, run
    from verifier.vnncomp.bench_settings import BenchSettings
    from verifier.vnncomp.folder import instances_in

    if options.networks:
        raise InputError("--network is for one property: name the networks before the folder, or use a list (`bench`)")
    limit, answers, expected = time_limit(options.timeout), answers_of(options), expected_of(options)
    at_least_one(threads=options.threads, jobs=options.jobs)
    answers.check()
    instances = instances_in(options.files, float("inf") if limit is None else limit)
    settings = BenchSettings(
        None, options.resume, jobs=options.jobs or 1, threads=options.threads, in_process=hasattr(os, "fork"),
        stages=options.stages, certificates=options.certificates,
    )  # fmt: skip
    with results_folder(options.out) as folder:
        rows = run(instances, replace(settings, out=folder), None if options.quiet else say)
        witnesses = _witnesses(folder, rows, instances)
    for row, instance in zip(rows, instances, strict=True):
        answers.say(f"{row.status}\t{instance.network}\t{instance.property_file}")
        if row.wrong:
            say(f"WRONG: {row.name}: {row.wrong}")
    record = folder_record(rows, instances, witnesses, expected, about(options))
    unmet = answers.give(record) if answers.asked or expected is not None else ExitCode.DONE
    return ending(rows, unmet)


def _witnesses(folder: Path, rows: Sequence[BenchRow], instances: Sequence[Instance]) -> list[str]:
    """The text of each result file that has a witness; empty for the others."""
    from verifier.vnncomp.bench import result_file

    files = [result_file(folder, instance) for instance in instances]
    sat = [row.status == "sat" and file.is_file() for row, file in zip(rows, files, strict=True)]
    return [file.read_text(encoding="utf-8") if there else "" for file, there in zip(files, sat, strict=True)]
