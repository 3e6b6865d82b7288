"""Checks of what people give: each says what is wrong with it, where, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from properties import Specification, robustness
from properties.arguments import check_values
from properties.questions import NETWORKS_OF_ONE_OUTPUT, NETWORKS_OF_SEVERAL_DIMENSIONS
from verifier.errors import InputError
from verifier.graph import Graph
from verifier.registry import hint
from verifier.verdict import Semantics


def checked_semantics(semantics: str | Semantics) -> Semantics:
    """The semantics of that name. Raises InputError where there is none."""
    try:
        return Semantics(semantics)
    except ValueError:
        names = [s.value for s in Semantics]
        closest = hint(str(semantics), names)
        raise InputError(f"semantics must be {' or '.join(map(repr, names))}, got {semantics!r}{closest}") from None


def check_narrow(graph: Graph, example: Tensor) -> None:  # [B, *input]
    """Raises InputError where a network or its inputs are not float32."""
    found = {t.dtype for n in graph.nodes if n.op is not None for _, t in n.op.parameters() if t.is_floating_point()}
    other = next((d for d in (example.dtype, *sorted(found, key=str)) if d is not torch.float32), None)
    if other is not None:
        raise InputError(
            f'semantics="float32" is about float32 networks on float32 inputs, and here is {other}: '
            'convert the model and x to torch.float32, or ask for semantics="real"'
        )


def same_answers(label: Tensor, shape: Sequence[int]) -> Specification:  # [B]
    """Robustness of one class per example, of a network whose outputs have this shape.

    Raises:
        InputError: the outputs are not one vector of classes, or no such label.
    """
    check_classifier(shape)
    with input_errors():
        return robustness(label, math.prod(shape))


def check_classifier(shape: Sequence[int]) -> None:
    """Raises InputError where outputs of this shape are not one vector of at least two classes; names what to ask."""
    if sum(size > 1 for size in shape) > 1:
        raise InputError(
            f"the network's output has several dimensions, {tuple(shape)}: one class for all of it is hardly what is "
            f"meant. Say with spec= what is: {NETWORKS_OF_SEVERAL_DIMENSIONS}"
        )
    if math.prod(shape) < 2:
        raise InputError(
            "robustness needs at least two classes, the network has 1 output(s). Say what is asked of a number: "
            f"{NETWORKS_OF_ONE_OUTPUT}"
        )


@contextmanager
def input_errors() -> Iterator[None]:
    """Bad properties are bad input: the properties package raises plain ValueErrors."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error


def check_example(x: Tensor) -> None:  # [B, *input]
    if not isinstance(x, Tensor):
        raise InputError(f"x must be a torch tensor [batch, *input], got {type(x).__name__}; try torch.as_tensor(x)")
    with input_errors():
        check_values(x, "x")
        check_values(torch.empty(0), "a new tensor")
    if x.dim() < 2 or x.numel() == 0:
        raise InputError(f"x must be a non-empty batch [batch, *input], got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise InputError(f"x has dtype {x.dtype}; the model needs floating-point inputs (uint8 images: divide by 255)")
    bad = ~x.isfinite()
    if bad.any():
        at = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(f"x has {int(bad.sum())} NaN or infinite values, the first at index {at}")


def checked_labels(label: Tensor | Sequence[int], x: Tensor) -> Tensor:  # [B], [B, *input] -> [B] int64
    try:
        label = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"label must hold one class number per example, got {label!r}") from error
    with input_errors():
        check_values(label, "label")
    if label.is_floating_point() or label.dtype is torch.bool:
        raise InputError(f"label must hold class numbers, got dtype {label.dtype}")
    if label.shape != (len(x),):
        raise InputError(f"label must have one entry per example, shape ({len(x)},), got {tuple(label.shape)}")
    return label.long().cpu()
