"""The counterexample of an instance: its inputs with their bounds, its outputs, and whether it holds when run again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from verifier.report.blocks import Block, Cell, Table, Text, number
from verifier.report.exhibits import Pair, shown
from verifier.report.pictures import as_image
from verifier.report.section import section
from verifier.report.subjects import InstanceRun

#: lines of inputs or outputs, at most
_MOST = 500


@section("witness", "Counterexample", 20, InstanceRun)
def witness(run: InstanceRun) -> Iterator[Block]:
    """Checked again from the files, then shown."""
    if run.witness is None:
        return
    if run.doubt:
        yield Text(f"When this page was made it could not be confirmed: {run.doubt}", warning=True)
    else:
        yield Text(
            "Checked again when this page was made: it lies in the property's set, and onnxruntime computes outputs "
            "for it that the property describes."
        )
    x, y = run.witness
    sides = _sides(run, x, y)
    yield from _pictures(run, x, sides)
    names = ("#input", "#value") if sides is None else ("#input", "#least", "#value", "#largest")
    rows = []
    for i, value in enumerate(x[:_MOST]):
        cells = [Cell(str(i), i), number(value, 8)]
        if sides is not None:
            cells = [cells[0], number(sides[0][i], 8), cells[1], number(sides[1][i], 8)]
        rows.append(cells)
    yield Table(_caption("Inputs", x), names, rows, folded=len(rows) > 20)
    outputs = [[Cell(str(i), i), number(value, 8)] for i, value in enumerate(y[:_MOST])]
    yield Table(_caption("Outputs", y), ("#output", "#value"), outputs, folded=len(outputs) > 20)


def _caption(what: str, values: Sequence[float]) -> str:
    return what if len(values) <= _MOST else f"{what}: the first {_MOST} of {len(values)}"


def _sides(run: InstanceRun, x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """The box of the property that the counterexample is in; None where it is in none."""
    found = run.asked.witness(x, y)
    if found is None:
        return None
    case = run.asked.cases[found[0]]
    return np.array([*map(float, case.lower)]), np.array([*map(float, case.upper)])


def _pictures(run: InstanceRun, x: Sequence[float], sides: tuple[np.ndarray, np.ndarray] | None) -> Iterator[Block]:
    """The middle of the box and the counterexample, where inputs are images."""
    shape = run.pixels or run.shape
    found = np.asarray(x, dtype=np.float64)
    if shape is None or int(np.prod(shape)) != found.size or as_image(found, shape) is None:
        return
    clean = None if sides is None else (sides[0] + sides[1]) / 2
    yield from shown([Pair("the counterexample", found, clean)], None, shape, ("middle of the box", "counterexample"))
