"""Several radii on the command line: `--eps 0.02,0.05,0.1`, and what a sweep over them prints. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verifier.commands.exit_code import ExitCode
from verifier.commands.options import EPS, OptionalPerturbation, number
from verifier.commands.shared import check_target, exported, say
from verifier.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from verifier.certification.curve import Sweep


class Radii(tuple[float, ...]):
    """The radii of --eps, one or several."""


def radii(text: str) -> Radii:
    """Numbers or fractions, with commas between them."""
    return Radii(number(part) for part in text.split(","))


SEVERAL = typer.Option(parser=radii, metavar="NUMBER[,NUMBER...]", help=EPS.help)


@dataclass(frozen=True, kw_only=True)
class SweepOptions(OptionalPerturbation):
    """How far, or how far each, and within which range inputs may move."""

    eps: Annotated[Radii, SEVERAL] = field()  # type: ignore[assignment]  # several, and without a default
    plot: Annotated[Path | None, typer.Option(help="Draw the accuracies over several --eps to this PNG file.")] = None

    def asked(self) -> float | list[float]:
        """What `certify` takes as eps. Raises InputError where a picture could not be drawn."""
        if self.plot is not None:
            from verifier.comparison.plot import needs_matplotlib

            if len(self.eps) == 1:
                raise InputError("--plot draws accuracies over several radii: give --eps more than one, with commas")
            check_target("--plot", self.plot)
            needs_matplotlib()
        return list(self.eps) if len(self.eps) > 1 else self.eps[0]


def give_sweep(sweep: Sweep, out: Path, plot: Path | None, show: Callable[[Table], None]) -> None:
    """The table, as `show` prints it, the picture, and on stderr what is wrong."""
    show(sweep.table())
    if plot is not None:
        exported(plot, sweep.plot)
    raised = {point["eps"]: point["errors"] for point in sweep.curve() if point["errors"]}
    for eps, count in raised.items():
        examples = "1 example" if count == 1 else f"{count} examples"
        how = f"`verifier show {_store(out, eps)} --failures` lists them"
        say(f"warning: at eps {eps:g} {examples} raised an error; {how}")


def exit_on_nothing_but_errors(sweep: Sweep) -> None:
    """A sweep in which every example raised fails."""
    points = sweep.curve()
    if sum(point["errors"] for point in points) == sum(point["examples"] for point in points):
        raise typer.Exit(ExitCode.FAILED)


def _store(out: Path, eps: float) -> Path:
    from verifier.certification.curve import store_of

    return store_of(out, eps)
