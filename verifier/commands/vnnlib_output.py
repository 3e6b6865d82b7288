"""What `verifier vnnlib` gives to machines beside the word, the result file and the certificates. Light."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.commands.answer import JSON, JUNIT, STRICT, Answers
from verifier.commands.exit_code import ExitCode
from verifier.commands.shared import say

if TYPE_CHECKING:
    from verifier.vnncomp.answer import InstanceAnswer, InstanceStatus
    from verifier.vnncomp.bench import BenchRow


@dataclass(frozen=True)
class InstanceOutput:
    """The files of one instance, and how the command ends."""

    network: Path | Mapping[str, Path]
    property_file: Path
    answers: Answers
    expected: InstanceStatus | None
    about: Mapping[str, Any]
    began: float

    @classmethod
    def of(cls, options: argparse.Namespace, began: float) -> InstanceOutput:
        """Of the options of one instance. Raises InputError where a file could not be written."""
        answers = answers_of(options)
        answers.check()
        return cls(options.network, options.property, answers, expected_of(options), about(options), began)

    def word(self, text: str) -> None:
        """The answer on stdout, or where that is taken on stderr."""
        if self.answers.stdout_taken:
            say(text.rstrip("\n"))
            return
        sys.stdout.write(text)
        sys.stdout.flush()

    def give(self, status: InstanceStatus, message: str = "", text: str = "", **details: Any) -> ExitCode:
        """Writes the files that are asked for, and says what is not as expected. Raises InputError."""
        return self._give(status, message, text, "", details)

    def give_answer(self, answer: InstanceAnswer, whole: str, missing: str) -> ExitCode:
        """The same of an answer.

        Args:
            whole: the text of the result file.
            missing: why there are no certificates where they were asked for; empty where there are.
        """
        found = answer.witness
        details: dict[str, Any] = {"decided_by": sorted({s for s in answer.decided_by if s is not None})}
        if found is not None:
            details["witness"] = {"inputs": found.x, "outputs": found.y, "distance": found.distance}
        return self._give(answer.status, answer.reason, "" if found is None else whole, missing, details)

    def _give(
        self, status: InstanceStatus, message: str, text: str, missing: str, details: Mapping[str, Any]
    ) -> ExitCode:
        if not self.answers.asked and self.expected is None:
            return ExitCode.DONE
        from verifier.ci.decided import expecting, instance_case
        from verifier.ci.record import Record
        from verifier.vnncomp.bench_list import stem

        networks = dict(self.network) if isinstance(self.network, Mapping) else {"network": self.network}
        files = {name: str(path) for name, path in networks.items()}
        case = instance_case(
            stem(self.property_file), " ".join(map(stem, networks.values())), status, self.expected,
            seconds=time.monotonic() - self.began, message=message, text=text, missing=missing,
            details={"networks": files, "property": str(self.property_file), **details},
        )  # fmt: skip
        return self.answers.give(expecting(Record("vnnlib", (case,), about=self.about), self.expected))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of what machines read."""
    parser.add_argument(
        "--expect", metavar="sat|unsat", help=f"exit code {ExitCode.UNMET:d} where the answer is another"
    )
    parser.add_argument("--strict", action="store_true", help=_lower(STRICT))
    parser.add_argument("--junit", type=Path, help=_lower(JUNIT))
    parser.add_argument("--json", type=Path, help=_lower(JSON))


def answers_of(options: argparse.Namespace) -> Answers:
    """The group of options that commands share."""
    return Answers(junit=options.junit, json=options.json, strict=options.strict)


def expected_of(options: argparse.Namespace) -> InstanceStatus | None:
    """The answer that is expected. Raises InputError where it is no answer."""
    if options.expect is None:
        return None
    from verifier.errors import InputError
    from verifier.registry import hint
    from verifier.vnncomp.answer import InstanceStatus

    if options.expect not in ("sat", "unsat"):
        raise InputError(f"--expect is sat or unsat, got {options.expect!r}{hint(options.expect, ('sat', 'unsat'))}")
    return InstanceStatus(options.expect)


def ending(rows: Sequence[BenchRow], unmet: ExitCode) -> ExitCode:
    """How a list or a folder ends when all of it is decided; what is an error is said on stderr, with its reason.

    Args:
        unmet: how it ends for what was expected of it.
    """
    errors = [row for row in rows if row.status == "error"]
    for row in errors:
        say(f"error: {row.name}: {row.note.removeprefix('error: ')}")
    if len(errors) == len(rows) or any(row.wrong for row in rows):
        return ExitCode.FAILED
    return ExitCode.USAGE if errors and unmet is ExitCode.DONE else unmet


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as JSON values."""
    from verifier import __version__

    limit = options.timeout if options.timeout != float("inf") else None
    return {"version": __version__, "timeout": limit, "stages": options.stages, "expected": options.expect}


def _lower(text: str) -> str:
    return text[0].lower() + text[1:].rstrip(".")
