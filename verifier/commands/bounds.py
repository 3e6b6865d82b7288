"""`verifier bounds`: lower and upper bounds of outputs or neurons, by any method. Light: torch is loaded where used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verifier.commands.inputs import InputOptions
from verifier.commands.options import DEVICE, ModelOptions, PartOptions, PerturbationOptions, QuestionOptions, limit_of
from verifier.commands.shared import check_target, exported, say, time_limit
from verifier.commands.specification import specification_of
from verifier.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from verifier.bounding import BoundsResult
    from verifier.commands.inputs import Given


@dataclass(frozen=True, kw_only=True)
class BoundsOptions:
    """By which method, of what, and where to."""

    method: Annotated[
        str, typer.Option(help="A stage that bounds: ibp, crown, alpha-crown, dual, zonotope, lp, milp, ...")
    ] = "crown"
    of: Annotated[
        str, typer.Option(help="outputs, all (every node of the network), or names of nodes with commas between them.")
    ] = "outputs"
    margins: Annotated[
        bool, typer.Option("--margins", help="Of the label's output minus each other one, in place of the outputs.")
    ] = False
    linear: Annotated[
        bool, typer.Option("--linear", help="Also the linear functions of the input below and above, into --out.")
    ] = False
    timeout: Annotated[float, limit_of("Seconds for everything")] = float("inf")
    device: Annotated[str | None, DEVICE] = None
    out: Annotated[
        Path | None, typer.Option(help="Write all bounds to this npz file, as NAME.lower and NAME.upper.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes on how the inputs were read.")] = False

    def check(self) -> None:
        """Raises InputError where options do not fit each other, or a file could not be written."""
        check_target("--out", self.out)
        if self.out is not None and self.out.suffix != ".npz":
            raise InputError(f"--out must be a .npz file, got {self.out}")
        if self.linear and self.out is None:
            raise InputError("--linear writes the coefficients to --out: name a .npz file")
        if self.margins and self.of != "outputs":
            raise InputError("--margins is about the outputs: leave --of out")


def bounds(
    network: ModelOptions,
    chosen: InputOptions,
    part: PartOptions,
    asked: PerturbationOptions,
    about: QuestionOptions,
    how: BoundsOptions,
) -> None:
    """Bound a network's outputs, or its neurons, over all perturbations of size eps of an input, or of several.

    Prints the bounds of each output, and of other nodes the least and the greatest one of each. With --question or
    --threshold those of its rows in place of the outputs: a row is a number that is to stay above zero (a margin, say,
    or the output less the threshold).
    """
    from rich.console import Console

    from verifier.bounding import bounds as run
    from verifier.certification.certify import input_precision

    how.check()
    question = about.asked()
    if question is not None and (how.margins or how.of != "outputs"):
        raise InputError("--question and --threshold are about the outputs: leave --margins and --of out")
    given, model = chosen.given(part, asked.limits is not None, how.quiet), about.network(network)
    x = given.x.to(input_precision(model))
    spec = None if question is None else specification_of(question, model, x, given.labels)
    rows = _margins(model, x, given.labels) if how.margins else None if spec is None else spec.rows
    found = run(
        model, x, asked.eps, how.method, of=how.of if how.of in ("outputs", "all") else how.of.split(","), C=rows,
        linear=how.linear, threat=asked.threat, clip=asked.limits, budget=time_limit(how.timeout), device=how.device,
    )  # fmt: skip
    if spec is not None:
        found = found.plus(spec.offset)
    Console().print(_table(found, given, "margin" if how.margins else "output" if spec is None else "row"))
    if found.exhausted:
        say("note: the time was up before the method was done: bounds are looser than they could be")
    if how.out is not None:
        exported(how.out, lambda path: _save(path, found))


def _margins(model: object, x: Tensor, labels: list[int] | None) -> Tensor:  # [B, *input] -> [B, classes, outputs]
    """The label's output minus each: zero in the label's own row."""
    import torch

    from verifier.api import Verifier, labels_of
    from verifier.arguments import check_classifier

    verifier = Verifier(model, x, stages=["interval"])  # type: ignore[arg-type]
    check_classifier(verifier.output_shape)
    label = labels_of(labels, verifier, x)
    wrong = next((one for one in label.tolist() if not 0 <= one < verifier.classes), None)
    if wrong is not None:
        raise InputError(f"label {wrong} is out of range: the network has {verifier.classes} classes")
    unit = torch.eye(verifier.classes, dtype=torch.float64)
    return unit[label].unsqueeze(1) - unit


def _table(found: BoundsResult, given: Given, name: str) -> Table:
    from rich.table import Table

    only = found.output in found and len(found) == 1
    trust = min(found.trust).name
    table = Table(title=f"{found.method}, trust {trust}", title_justify="left")
    for column in ("input", name if only else "node", *([] if only else ["entries"]), "lower", "upper"):
        table.add_column(column, justify="right")
    for i in range(len(given.x)):
        at = str(given.first_index + i)
        if only:
            ends = zip(found.lower[i].flatten().tolist(), found.upper[i].flatten().tolist(), strict=True)
            for j, (low, high) in enumerate(ends):
                table.add_row(at, str(j), f"{low:.6g}", f"{high:.6g}")
            continue
        for node, one in found.items():
            low, high = float(one.lower[i].min()), float(one.upper[i].max())
            table.add_row(at, node, str(one.lower[i].numel()), f"{low:.6g}", f"{high:.6g}")
    return table


def _save(path: Path, found: BoundsResult) -> None:
    import numpy as np

    arrays: dict[str, Any] = {}
    for name, one in found.items():
        arrays |= {f"{name}.lower": one.lower.cpu().numpy(), f"{name}.upper": one.upper.cpu().numpy()}
        if one.lines is not None:
            lines = {key: getattr(one.lines, key) for key in ("A_lower", "b_lower", "A_upper", "b_upper")}
            arrays |= {f"{name}.{key}": value.cpu().numpy() for key, value in lines.items()}
    np.savez(path, **arrays)
