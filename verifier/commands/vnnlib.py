"""`verifier vnnlib`: one instance, decided in a process that starts as fast as torch does.

Its options are argparse's: the library that reads those of the other commands takes a fifth of a second to load.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from verifier.budget import seconds_of
from verifier.commands.exit_code import ExitCode
from verifier.commands.shared import at_least_one, check_target, exported, say, stage_names, time_limit
from verifier.commands.torch_start import load_torch
from verifier.commands.vnnlib_folder import decide_folder, is_folder
from verifier.commands.vnnlib_output import InstanceOutput, add_options
from verifier.errors import InputError, InternalError, VerifierError
from verifier.files import check_file

if TYPE_CHECKING:
    from properties.vnnlib import Property
    from verifier.vnncomp.answer import InstanceAnswer
    from verifier.vnncomp.ladder import InstanceLadder
    from verifier.vnncomp.progress import InstanceProgress
    from verifier.vnncomp.watchdog import Watchdog

#: seconds, and share of the limit, that are kept for what comes after the stages
_RESERVE, _RESERVED_SHARE = 0.5, 0.02

_ABOUT = """Decide a VNN-LIB property of an ONNX network: prints sat, unsat, unknown, timeout or error.

A property of VNN-LIB 2.0 that declares several networks takes a file for each: --network NAME=FILE, once for every one.

sat means that there is a counterexample, which is printed, or written to --out with the status. Exit code 0 for
any answer, 2 where a file cannot be used (status error), 3 where --expect or --strict want another answer, 130 for
Ctrl-C (no result).

A folder in place of files: every property in it of every network in it, or of those named before it, each in a process
of its own; a line for each on stdout, with the word, the network and the property, and tabs between. --out is a folder
then, and so is --certificates, with a folder for each. Files that cannot be used do not keep the others from being
decided; the exit code is 2 all the same."""


def main(arguments: Sequence[str]) -> NoReturn:
    """`run`, then the end of this process."""
    code = run(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # there is nothing to clean up, and taking torch down takes a while


def run(arguments: Sequence[str]) -> int:
    """Decide the instance that the arguments name; returns the exit code. A help or usage message is a SystemExit."""
    began = time.monotonic()
    options = _options(arguments)
    try:
        return decide_folder(options) if is_folder(options) else _decide(options, began)
    except KeyboardInterrupt:
        say("interrupted")
        return ExitCode.INTERRUPTED
    except InternalError:
        raise
    except VerifierError as error:
        say(f"error: {error}")
        return ExitCode.USAGE


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `network`, a path or paths by name, and `property`."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    by_name: dict[str, Path] = {}
    for text in options.networks:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            parser.error(f"--network is NAME=FILE, got {text!r}")
        if name in by_name:
            parser.error(f"--network {name} is given more than once: give it once")
        by_name[name] = Path(file)
    if is_folder(options):
        return options
    if options.jobs is not None or options.resume:
        parser.error("--jobs and --resume are for a folder of properties")
    if len(options.files) != (1 if by_name else 2):
        wanted = "a property alone, beside --network" if by_name else "a network and a property"
        parser.error(f"the files are {wanted}, got {len(options.files)}")
    options.network = by_name or options.files[0]
    options.property = options.files[-1]
    return options


class _Once(argparse.Action):
    """Stores a value, and refuses a second one, which would silently take the first one's place."""

    given = False

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if self.given:
            parser.error(f"{option_string} is given more than once, and takes one value: give it once")
        self.given = True
        setattr(namespace, self.dest, values)


def _seconds(text: str) -> float:
    """Seconds as people write them, infinite for no limit."""
    try:
        found = seconds_of(text, "it")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return float("inf") if found is None else found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "verifier vnnlib", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.register("action", None, _Once)  # for all that have no other
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the network (.onnx or .onnx.gz), left out with --network, and the property (.vnnlib or .vnnlib.gz); or "
        "a folder of them",
    )
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME=FILE",
        dest="networks",
        help="the file of a network that the property declares under this name; may be given again",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="SECONDS",
        help="seconds for everything, such as 60, 10s or 2min; inf for no limit",
    )
    parser.add_argument("--out", type=Path, help="write status and witness to this file, whole")
    parser.add_argument("--certificates", type=Path, help="folder for the certificates of an unsat; `check` reads them")
    parser.add_argument(
        "--threads", type=int, help="threads; by default one for small networks of few inputs, else torch's choice"
    )
    parser.add_argument("--stages", help="names of the stages to use, comma-separated, in order")
    parser.add_argument("--jobs", type=int, help="of a folder: instances at a time")
    parser.add_argument("--resume", action="store_true", help="of a folder: go on with the run in --out")
    add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    return parser


def _decide(options: argparse.Namespace, began: float) -> ExitCode:
    from verifier.vnncomp.progress import InstanceProgress
    from verifier.vnncomp.watchdog import Watchdog

    limit, out = time_limit(options.timeout), options.out
    check_target("--out", out)
    at_least_one(threads=options.threads)
    output = InstanceOutput.of(options, began)
    progress = InstanceProgress((lambda line: None) if options.quiet else say)
    watchdog = Watchdog(limit, lambda: _late(out, options.quiet, progress, output))
    with _error_result(watchdog, out, output):
        networks = options.network.values() if isinstance(options.network, dict) else [options.network]
        _check_files(*networks, options.property)  # before torch is loaded
        answer, prop = _solved(options, limit, began, progress)
    watchdog.answered()
    whole = _give(answer, prop, out, options.quiet, output)
    if options.certificates is None:
        return output.give_answer(answer, whole, "")
    try:
        _certify(answer, options.certificates)
    except VerifierError as error:
        output.give_answer(answer, whole, str(error))
        raise
    return output.give_answer(answer, whole, "")


def _certify(answer: InstanceAnswer, folder: Path) -> None:
    """Certificates of a proof; not within the time limit, which is over when the answer is given."""
    from verifier.vnncomp.answer import InstanceStatus
    from verifier.vnncomp.certificates import write_certificates

    if answer.status is not InstanceStatus.UNSAT:
        say(f"no certificates: {answer.status.value} is no proof{_by(answer)}")
        return
    began = time.monotonic()
    size = write_certificates(answer, folder)
    cases = "1 case" if len(answer.certificates) == 1 else f"{len(answer.certificates)} cases"
    took = f"made and checked in {time.monotonic() - began:.2f} s"
    say(f"certificates of {cases} in {folder}: {size} bytes, {took}{_by(answer)}")


def _by(answer: InstanceAnswer) -> str:
    """The end of a line, and of the remark on an instance in a list, which is the last line."""
    by = sorted({stage for stage in answer.decided_by if stage is not None})
    return f"; decided by {', '.join(by)}" if by else ""


def _solved(
    options: argparse.Namespace, limit: float | None, began: float, progress: InstanceProgress
) -> tuple[InstanceAnswer, Property]:
    with _no_collections():
        load_torch()
        from verifier.vnncomp.solve import solve
    chosen = _ladder(options.stages)
    left = None if limit is None else limit - (time.monotonic() - began) - min(_RESERVE, _RESERVED_SHARE * limit)
    return solve(options.network, options.property, left, stages=chosen, threads=options.threads, progress=progress)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Imports without garbage collections: those walk all that torch has loaded, again and again, and find nothing."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was:
            gc.enable()


def _give(answer: InstanceAnswer, prop: Property, out: Path | None, quiet: bool, output: InstanceOutput) -> str:
    """Says how it was decided, and gives the answer; returns the text of the result file."""
    from verifier.vnncomp.result_file import render

    if not quiet:
        if answer.witness is not None and answer.widened:
            say(
                f"largest distance of the witness's inputs from their bounds in the file: {answer.witness.distance:.3g}"
            )
        say(f"{answer.seconds:.2f} s{_by(answer)}")
        if answer.reason:
            say(answer.reason)
        if answer.advice:
            say(answer.advice)
    whole = render(answer, prop)
    _write(whole, f"{answer.status.value}\n" if out is not None else whole, out, output)
    return whole


def _late(out: Path | None, quiet: bool, progress: InstanceProgress, output: InstanceOutput) -> ExitCode:
    """The answer when the time is up and there is none."""
    from verifier.vnncomp.answer import InstanceStatus

    if not quiet:
        say(progress.where())
        say(progress.advice())
    try:
        _write("timeout\n", "timeout\n", out, output)
        return output.give(InstanceStatus.TIMEOUT, progress.where())
    except InputError as error:
        say(f"error: {error}")  # the process ends before anybody else could say it
        raise


def _write(whole: str, printed: str, out: Path | None, output: InstanceOutput) -> None:
    """The file first: who reads the word on stdout finds it."""
    if out is not None:
        from verifier.files import text_replaced

        exported(out, lambda path: text_replaced(path, whole))
    output.word(printed)


@contextmanager
def _error_result(watchdog: Watchdog, out: Path | None, output: InstanceOutput) -> Iterator[None]:
    """Whatever goes wrong is the result `error` too; Ctrl-C is none."""
    try:
        yield
    except Exception as error:
        from verifier.vnncomp.answer import InstanceStatus

        watchdog.answered()
        _write("error\n", "error\n", out, output)
        output.give(InstanceStatus.ERROR, " ".join(f"{type(error).__name__}: {error}".split()))
        raise


def _check_files(*paths: Path) -> None:
    for path in paths:
        check_file(path)


def _ladder(text: str | None) -> InstanceLadder | None:
    """The stages of --stages. Raises InputError."""
    names = stage_names(text)
    if names is None:
        return None
    from verifier.stages import REGISTRY
    from verifier.vnncomp.ladder import InstanceLadder

    try:
        return InstanceLadder((), tuple(REGISTRY.canonical(name) for name in names))
    except ValueError as error:
        raise InputError(str(error)) from None
