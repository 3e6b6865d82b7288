"""Questions about two networks, or about one network at two points: built as one network, and verified as such."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from properties import output_range
from verifier.api import verify
from verifier.arguments import check_example, input_errors
from verifier.errors import InputError
from verifier.graph.ir import Graph, GraphBuilder
from verifier.graph.runner import ImportedModel, ModelRunner, Runner, at_home
from verifier.graph.torch_import import import_torch
from verifier.ops.elementwise import Shift, Subtract
from verifier.result import Result

#: what can be compared with each other
Network = nn.Module | ExportedProgram | ImportedModel


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


class ImportedDifference:
    """f(x + shift) - g(x) of networks of any kind, ONNX files among them: their graphs joined, each run by itself.

    Args: as of `Difference`.
    """

    def __init__(self, f: Network, g: Network, shift: Tensor | None = None) -> None:
        self.f, self.g, self.shift = f, g, shift
        self._runners = [_runner(f), _runner(g)]

    @property
    def precision(self) -> torch.dtype:
        """Of the inputs."""
        found = (n.precision for n in (self.f, self.g) if not isinstance(n, nn.Module) and isinstance(n, ImportedModel))
        return next(found, torch.float32)

    def run(self, x: Tensor, dtype: torch.dtype | None = torch.float64) -> Tensor:  # [B, *input] -> [B, outputs]
        """The difference of what the two models give, as `Runner`."""
        moved = x if self.shift is None else x + self.shift.to(x)
        first, second = (r.run(t, dtype) for r, t in zip(self._runners, (moved, x), strict=True))
        return first.to(second.device) - second

    def graph_for(self, example: Tensor) -> Graph:  # [B, *input]
        """Both graphs side by side, and their difference. Raises InputError where the networks do not fit."""
        first, second = (_graph(network, example) for network in (self.f, self.g))
        _check_alike(first.output_shape, second.output_shape)
        if first.dtype != second.dtype:
            raise InputError(f"the networks compute in {first.dtype} and {second.dtype}: convert one of them")
        builder = GraphBuilder(first.input_shape, first.nodes[0].name)
        builder.rounded, builder.computed = first.rounded or second.rounded, first.computed or second.computed
        start = 0 if self.shift is None else builder.add(Shift(self.shift.to(example)), (0,), "moved")
        ends = [_appended(builder, graph, at) for graph, at in ((first, start), (second, 0))]
        builder.add(Subtract(), ends, "difference")
        return builder.build()


def _difference(f: Network, g: Network, shift: Tensor | None = None) -> Difference | ImportedDifference:
    """f(x + shift) - g(x) of networks whose outputs are known to be alike."""
    if isinstance(f, nn.Module) and isinstance(g, nn.Module):
        return Difference(f, g, None if shift is None else at_home(f, shift))
    return ImportedDifference(f, g, shift)


def _appended(builder: GraphBuilder, graph: Graph, start: int) -> int:
    """A graph's nodes behind those that are there; returns its output.

    Args:
        start: the node that is its input.
    """
    places = [start]
    for node in graph.nodes[1:]:
        builder.nodes.append(replace(node, parents=tuple(places[p] for p in node.parents)))
        places.append(len(builder.nodes) - 1)
    return places[-1]


def _runner(network: Network) -> Runner:
    if isinstance(network, ImportedModel) and not isinstance(network, nn.Module):
        return network
    return ModelRunner(network)


def _graph(network: Network, example: Tensor) -> Graph:  # [B, *input]
    if isinstance(network, ImportedModel) and not isinstance(network, nn.Module):
        return network.graph_for(example[:1])
    return import_torch(network, example[:1])


def _check_alike(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    if first != second:
        raise InputError(f"the networks have outputs of shapes {list(first)} and {list(second)}: not comparable")


def equivalent(
    first: Network, second: Network, x: Tensor, eps: float | None = None, *, distance: float, **options: Any
) -> Result:
    """Are two networks' outputs within a distance of each other at every point of a set, |f - g|_inf <= distance?

    A counterexample is one input at which an output differs by more: two networks that answer alike may still differ.

    Args:
        first, second: of the same inputs and outputs: modules in eval mode, exported programs, or ONNX models
            (`OnnxModel`); a module may be compared with the file that it was exported to.
        x: [B, *input]. eps: radius of the sets around x.
        distance: > 0.
        options: further arguments of `verify`, such as input_set.

    Raises:
        InputError: outputs of different shapes; else as `verify`.
    """
    check_example(x)
    shapes = [_output_shape(network, x) for network in (first, second)]
    _check_alike(*shapes)
    if not 0 < distance < float("inf"):
        raise InputError(f"distance must be a number > 0, got {distance}")
    spec = output_range(shapes[0], -distance, distance)
    return verify(_difference(first, second), x, eps, spec=spec, **options)


def monotonic(
    network: Network,
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
        network: a module in eval mode, an exported program, or an ONNX model.
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
    return verify(_difference(network, network, shift.to(x)), x, eps, spec=spec, **options)


def _output_shape(network: Network, x: Tensor) -> tuple[int, ...]:  # [B, *input]
    if not isinstance(network, nn.Module):
        if not isinstance(network, ExportedProgram | ImportedModel):
            kind = type(network).__name__
            raise InputError(f"networks to compare are torch.nn.Modules, exported programs and OnnxModels, not {kind}")
        return _graph(network, x).output_shape
    one = at_home(network, x[:1])
    try:
        with torch.no_grad():
            found = network(one)
    except Exception as error:
        raise InputError(f"the network fails on an input of shape {list(x[:1].shape)}: {error}") from error
    if not isinstance(found, Tensor):
        raise InputError(f"the network returned {type(found).__name__}; a single tensor is needed")
    return tuple(found.shape[1:])
