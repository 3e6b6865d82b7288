"""The options of `Answers`, for commands that typer reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from verifier.commands.answer import JSON, JUNIT, STRICT, Answers


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(Answers):
    """In which forms the answers are given, and whether all of them are needed."""

    junit: Annotated[Path | None, typer.Option(help=JUNIT)] = None
    json: Annotated[Path | None, typer.Option(help=JSON)] = None
    strict: Annotated[bool, typer.Option("--strict", help=STRICT)] = False


def share(text: str) -> float:
    """A share from 0 to 1, such as 0.9 or 90%."""
    try:
        percent = text.strip().endswith("%")
        found = float(text.strip().removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise typer.BadParameter(f"{text!r} is no share from 0 to 1, such as 0.9 or 90%")
    return found
