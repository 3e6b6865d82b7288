"""Models of several inputs or outputs as models of one: inputs are cut out of a flat one, an output is chosen."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from properties import InputSet, Perturbation, Product, Threat
from verifier.arguments import check_example, input_errors
from verifier.errors import InputError
from verifier.loading import load_model


class OneInput(nn.Module):
    """A model of several inputs as a model of one flat input [B, n]: the inputs, flattened, one after another.

    Args:
        model: takes tensors [B, *shape], one for each shape.
        shapes: of its inputs, without the batch.
        output: which of its outputs: a place, or a name (a key, or an attribute); None: it has one.

    Raises:
        InputError: not a module.
    """

    def __init__(
        self, model: nn.Module, shapes: Sequence[Sequence[int]] | None = None, output: int | str | None = None
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InputError(
                f"several inputs, or one of several outputs, are for a torch.nn.Module, not a {type(model).__name__}: "
                "for an ONNX file, OnnxModel.load(path, output=...) chooses the output"
            )
        self.model, self.output = model, output
        self.shapes = None if shapes is None else [tuple(shape) for shape in shapes]
        self.training = model.training

    def forward(self, x: Tensor) -> Any:  # [B, n], or [B, *input]
        found = self.model(x) if self.shapes is None else self.model(*self.cut(x))
        return found if self.output is None else chosen(found, self.output)

    def cut(self, x: Tensor) -> list[Tensor]:  # [B, n] -> [B, *shape] each
        """The inputs of the model in a flat one, such as a counterexample."""
        parts, at = [], 0
        for shape in self.shapes or ():
            size = math.prod(shape)
            part = x[:, at : at + size]
            parts.append(part if len(shape) == 1 else part.reshape(-1, *shape))
            at += size
        return parts


def as_one(
    model: Any,
    x: Tensor | Sequence[Tensor],  # [B, *input], or [B, *shape] of each input
    eps: float | str | Sequence[float] | None,
    threat: str | Threat,
    clip: tuple[float, float] | None,
    sets: InputSet | Sequence[InputSet] | None,
    output: int | str | None,
) -> tuple[Any, Tensor, InputSet]:
    """A question about one or several inputs as one about a model of one input: the model, its input, its set.

    Args: as of `verifier.verify`.

    Raises:
        InputError: unusable arguments.
    """
    if isinstance(x, list | tuple) and all(isinstance(part, Tensor) for part in x):
        whole, joined = flattened(x), around(x, eps, threat, clip, sets)
        parts = getattr(model, "parts", None)  # of an OnnxModel, which has joined them itself
        if parts is not None and output is None and not isinstance(model, nn.Module):
            shapes = [tuple(part.shape[1:]) for part in x]
            if shapes != list(parts.values()):
                raise InputError(f"the model has the inputs {parts}, got inputs of shapes {shapes}")
            return model, whole, joined
        return OneInput(model, [part.shape[1:] for part in x], output), whole, joined
    check_example(x)  # type: ignore[arg-type]
    assert isinstance(x, Tensor)
    if eps is not None:
        if isinstance(eps, list | tuple):
            raise InputError("several radii are for several inputs: give x as a tuple of them")
        with input_errors():
            sets = Perturbation(eps, threat, clip).around(x)  # type: ignore[arg-type]
    if not isinstance(sets, InputSet):
        raise InputError(f"input_set must be an input set, got {type(sets).__name__}: several are for several inputs")
    return model if output is None else OneInput(model, output=output), x, sets


def chosen(outputs: Any, output: int | str) -> Any:
    """One of several outputs. Raises InputError where there is none of that place or name."""
    try:
        if isinstance(output, str):
            return outputs[output] if isinstance(outputs, Mapping) else getattr(outputs, output)
        return (list(outputs.values()) if isinstance(outputs, Mapping) else outputs)[output]
    except (KeyError, IndexError, AttributeError) as error:
        names = list(outputs) if isinstance(outputs, Mapping) else f"{len(outputs)} without names"
        raise InputError(f"the model has no output {output!r}: it has {names}") from error


def loaded(source: str, weights: str | os.PathLike[str] | None = None, output: str | None = None) -> Any:
    """`verifier.loading.load_model`, with one of several outputs.

    Args:
        output: its name, or its place 0, 1, ...; None: the model has one.

    Raises:
        InputError: a .pt2 file, of which no output can be chosen; else as there.
    """
    onnx = source.endswith((".onnx", ".onnx.gz"))
    model = load_model(source, weights, output if onnx else None)
    if output is None or onnx:
        return model
    if not isinstance(model, nn.Module):
        raise InputError(f"no output can be chosen of {source}: export a module that returns output {output} alone")
    return OneInput(model, output=int(output) if output.isdigit() else output)


def flattened(x: Sequence[Tensor]) -> Tensor:  # [B, *shape] each -> [B, n]
    """Inputs as one. Raises InputError where they are not of one batch and one precision."""
    for part in x:
        check_example(part)
    if not x or len({(len(part), part.dtype) for part in x}) > 1:
        said = ", ".join(f"{len(part)} of {part.dtype}" for part in x)
        raise InputError(f"the inputs of a model must be of one batch size and one precision, got {said or 'none'}")
    return torch.cat([part.flatten(1) for part in x], 1)


def around(
    x: Sequence[Tensor],
    eps: float | str | Sequence[float] | None,
    threat: str | Threat,
    clip: tuple[float, float] | None,
    sets: InputSet | Sequence[InputSet] | None,
) -> Product:
    """The sets of several inputs x ([B, *shape] each), each by its own radius, or as they are given.

    Raises:
        InputError: another number of them than of inputs, or other shapes.
    """
    with input_errors():
        if eps is not None:
            radii = [eps] * len(x) if isinstance(eps, int | float | str) else list(eps)
            if len(radii) != len(x):
                raise InputError(f"{len(x)} inputs need {len(x)} radii, got {len(radii)}; 0.0 fixes an input")
            return Product([Perturbation(e, threat, clip).around(part) for e, part in zip(radii, x, strict=True)])
        parts = sets.parts if isinstance(sets, Product) else sets
        if not isinstance(parts, Sequence) or [p.shape for p in parts] != [tuple(part.shape[1:]) for part in x]:
            raise InputError(
                f"{len(x)} inputs of shapes {[list(part.shape[1:]) for part in x]} need a set of that shape each: "
                "give input_set=(set, set, ...), or properties.Product"
            )
        return Product(parts)
