"""The result of an instance as the competition writes it: a status word, and the witness where it is sat.

For a property of VNN-LIB 1.0 the witness is ((X_0 value) ... (Y_0 value) ...), one variable a line; for one of 2.0 it
is what the standard's solvers print: a line with name, type and shape, then one value a line (VNN-LIB 2.0, chapter on
the solver's command line).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path

from properties.vnnlib import Property
from verifier.errors import InputError
from verifier.vnncomp.answer import InstanceAnswer, InstanceStatus

_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")


def decimal(value: float) -> str:
    """The value as a decimal number that is equal to it: the short one where that is, else all digits."""
    short = repr(float(value))
    return short if Decimal(short) == Decimal(value) else str(Decimal(value)).lower()


def render(answer: InstanceAnswer, prop: Property | None = None) -> str:
    """The text of the result file."""
    word = f"{answer.status.value}\n"
    if answer.witness is None or prop is None:
        return word
    x, y = answer.witness.x, answer.witness.y
    if prop.version == "1.0":
        pairs = [f"({name}_{i} {decimal(v)})" for name, values in (("X", x), ("Y", y)) for i, v in enumerate(values)]
        return word + "(" + "\n".join(pairs) + ")\n"
    lines, values = [], {"input": iter(prop.widened(x)), "output": iter(y)}
    for tensor in prop.tensors:
        lines.append(f"{tensor.name} {tensor.element} [{','.join(map(str, tensor.shape))}]")
        lines += map(decimal, islice(values["input" if tensor.kind == "input" else "output"], tensor.size))
    return word + "\n".join(lines) + "\n"


def parsed(path: Path, prop: Property | None = None) -> tuple[InstanceStatus, tuple[list[float], list[float]] | None]:
    """Status and witness in a result file, as `Property.witness` takes it; no property: the status alone.

    Raises:
        InputError: the file is not a result, or its witness is not of the property's variables.
    """
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        status = InstanceStatus(first.strip())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a result file: {error}") from error
    if status is not InstanceStatus.SAT or prop is None:
        return status, None
    try:
        x, y = _witness_1(rest, prop) if prop.version == "1.0" else _witness_2(rest.splitlines(), prop)
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path}: the witness is not of the property's variables: {error}") from error
    if not all(map(math.isfinite, (*x, *y))):
        raise InputError(f"{path}: the witness has values that are not finite")
    return status, (x, y)


def _witness_1(text: str, prop: Property) -> tuple[list[float], list[float]]:
    values = {(kind, int(i)): float(value) for kind, i, value in _PAIR.findall(text)}
    x = [values.pop(("X", i)) for i in range(prop.inputs)]
    y = [values.pop(("Y", i)) for i in range(prop.given)]
    if values:
        raise ValueError(f"there is no {'_'.join(map(str, next(iter(values))))}")
    return x, y


def _witness_2(lines: Sequence[str], prop: Property) -> tuple[list[float], list[float]]:
    wanted = sum(1 + tensor.size for tensor in prop.tensors)
    if len(lines) != wanted:
        raise ValueError(f"{len(lines)} lines, not {wanted}")
    x: list[float] = []
    y: list[float] = []
    at = 0
    for tensor in prop.tensors:
        if lines[at].split()[:1] != [tensor.name]:
            raise ValueError(f"line {at + 2} is not about {tensor.name}")
        end = at + 1 + tensor.size
        values = x if tensor.kind == "input" else y
        values += [float(v) for v in lines[at + 1 : end]]
        at = end
    narrowed = prop.narrowed(x)
    if narrowed is None:
        raise ValueError("inputs differ that the property says are equal")
    return narrowed, y
