"""What commands give to machines: files of JSON and JUnit, the one answer on stdout, and the exit code.

Light: only the standard library until there is something to give.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.commands.exit_code import ExitCode
from verifier.commands.shared import check_target, exported, say
from verifier.errors import InputError

if TYPE_CHECKING:
    from verifier.ci.record import Record

STRICT = "Exit code 3 where anything is left unknown, is an error, or lacks a certificate that was asked for."
JUNIT = "Write the answers as JUnit XML to this file; - is stdout, which then has nothing else."
JSON = "Write the answers as JSON to this file; - is stdout, which then has nothing else."
#: of a path: the standard output
STDOUT = "-"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """In which forms answers are given, and whether all of them are needed."""

    junit: Path | None = None
    json: Path | None = None
    strict: bool = False

    @property
    def asked(self) -> bool:
        """Whether a record is needed at all."""
        return self.strict or self.junit is not None or self.json is not None

    @property
    def stdout_taken(self) -> bool:
        """Whether stdout is for one of the files, so that all else goes to stderr."""
        return STDOUT in (str(self.junit), str(self.json))

    def check(self) -> None:
        """Raises InputError where a file could not be written: known now rather than in minutes."""
        if self.junit is not None and self.junit == self.json:
            raise InputError(f"--junit and --json are one file, {self.junit}: give two")
        for option, path in (("--junit", self.junit), ("--json", self.json)):
            if str(path) != STDOUT:
                check_target(option, path)

    def say(self, text: str) -> None:
        """Lines for people: on stdout, where that is free."""
        print(text, file=sys.stderr if self.stdout_taken else sys.stdout, flush=True)

    def print(self, table: Any) -> None:
        """As `say`, of something that rich prints."""
        from rich.console import Console

        Console(stderr=self.stdout_taken).print(table)

    def give(self, record: Record) -> ExitCode:
        """Writes the files, says on stderr what is not as expected, and returns how the command ends for that.

        Raises InputError where a file cannot be written.
        """
        from verifier.ci.as_json import as_json
        from verifier.ci.junit import junit

        record = record.strict() if self.strict else record
        for path, form in ((self.junit, junit), (self.json, as_json)):
            if path is not None:
                written(path, form(record))
        for expectation in record.unmet:
            say(f"not met: {expectation.name}: {expectation.message}")
        return ExitCode.UNMET if record.unmet else ExitCode.DONE


def written(path: Path, text: str) -> None:
    """A text in a file, whole or not at all, or on stdout. Raises InputError."""
    if str(path) == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    from verifier.files import text_replaced

    exported(path, lambda target: text_replaced(target, text))
