"""Questions about two networks, or about one network at two points: built as one network, and verified as such."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from properties import output_range
from verifier.api import verify
from verifier.arguments import check_example, input_errors
from verifier.errors import InputError
from verifier.result import Result


class Difference(nn.Module):
    """f(x + shift) - g(x).

    Args:
        shift: [*input], added to what f sees; None: nothing.
    """

    shift: Tensor | None

    def __init__(self, f: nn.Module, g: nn.Module, shift: Tensor | None = None) -> None:
        super().__init__()
        self.f, self.g = f, g
        self.register_buffer("shift", shift)
        self.training = f.training or g.training

    def forward(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
        moved = x if self.shift is None else x + self.shift
        return self.f(moved) - self.g(x)


def equivalent(
    first: nn.Module, second: nn.Module, x: Tensor, eps: float | None = None, *, distance: float, **options: Any
) -> Result:
    """Are two networks' outputs within a distance of each other at every point of a set, |f - g|_inf <= distance?

    A counterexample is one input at which an output differs by more: two networks that answer alike may still differ.

    Args:
        first, second: modules of the same inputs and outputs, in eval mode.
        x: [B, *input]. eps: radius of the sets around x.
        distance: > 0.
        options: further arguments of `verify`, such as input_set.

    Raises:
        InputError: outputs of different shapes; else as `verify`.
    """
    check_example(x)
    shapes = [_output_shape(network, x) for network in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the networks have outputs of shapes {list(shapes[0])} and {list(shapes[1])}: not comparable")
    if not 0 < distance < float("inf"):
        raise InputError(f"distance must be a number > 0, got {distance}")
    spec = output_range(shapes[0], -distance, distance)
    return verify(Difference(first, second), x, eps, spec=spec, **options)


def monotonic(
    network: nn.Module,
    x: Tensor,
    eps: float | None = None,
    *,
    shift: Tensor,
    decreasing: bool = False,
    tolerance: float = 0.0,
    **options: Any,
) -> Result:
    """Does no output fall where the input moves by `shift`, f(x + shift) >= f(x) - tolerance all over a set?

    This is about steps of one length: those of any length are as many questions.

    Args:
        network: a module in eval mode.
        x: [B, *input]. eps: radius of the sets around x; of x, not of x + shift.
        shift: [*input], such as 0.1 at one feature and 0 elsewhere.
        decreasing: no output rises, in place of: falls.
        tolerance: >= 0, by which it may.
        options: further arguments of `verify`, such as input_set.

    Raises:
        InputError: as `verify`; a shift of another shape.
    """
    check_example(x)
    if tuple(shift.shape) != tuple(x.shape[1:]):
        raise InputError(f"shift must have the shape of one input, {list(x.shape[1:])}, got {list(shift.shape)}")
    with input_errors():
        shape = _output_shape(network, x)
        spec = output_range(shape, high=tolerance) if decreasing else output_range(shape, low=-tolerance)
    return verify(Difference(network, network, shift.to(x)), x, eps, spec=spec, **options)


def _output_shape(network: nn.Module, x: Tensor) -> tuple[int, ...]:  # [B, *input]
    if not isinstance(network, nn.Module):
        raise InputError(f"networks to compare must be of torch.nn.Module, not {type(network).__name__}")
    try:
        with torch.no_grad():
            found = network(x[:1])
    except Exception as error:
        raise InputError(f"the network fails on an input of shape {list(x[:1].shape)}: {error}") from error
    if not isinstance(found, Tensor):
        raise InputError(f"the network returned {type(found).__name__}; a single tensor is needed")
    return tuple(found.shape[1:])
