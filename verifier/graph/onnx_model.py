"""An ONNX model, ready for verification: its graph, and onnxruntime to replay and to compare it."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import verifier.graph.onnx_compositions
import verifier.graph.onnx_conditions
import verifier.graph.onnx_functions
import verifier.graph.onnx_linear
import verifier.graph.onnx_pooling
import verifier.graph.onnx_stairs  # noqa: F401  with its neighbours: registers what each operator becomes
from verifier.errors import InputError, ModelError
from verifier.graph.agreement import judge
from verifier.graph.ir import Graph
from verifier.graph.onnx_constants import folded
from verifier.graph.onnx_file import read_model
from verifier.graph.onnx_runtime import session
from verifier.graph.onnx_several import inputs_of, with_one_input, with_output
from verifier.graph.onnx_walker import OnnxWalker
from verifier.layout import advice, other_layout, permuted
from verifier.ops.base import Shape

if TYPE_CHECKING:
    from onnx import ModelProto

#: by how much the graph and onnxruntime may differ, relative to the outputs: rounding in another order
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class OnnxModel:
    """A model from a `.onnx` or `.onnx.gz` file, imported for one example and compared with onnxruntime.

    Attributes:
        graph: in the model's own precision (float32, rarely float64).
        input_shape: of one input, as in the graph: the model's own without a leading 1.
        precision: of the model's inputs.
        name: of the file.
        parts: of a model of several inputs, which is imported as one of a flat input: their shapes without the batch,
            by name, in their order; empty for one input.
        shapes: of the values that the output depends on, as ONNX has them, by name.
    """

    def __init__(self, proto: ModelProto, name: str = "the model", output: int | str | None = None) -> None:
        """From a model in memory; `load` reads a file. Raises as `load`."""
        self.name = name
        try:
            proto = proto if output is None else with_output(proto, output)
            inputs = inputs_of(proto)
            self.parts: dict[str, Shape] = {n: s[1:] for n, s in inputs.items()} if len(inputs) > 1 else {}
            proto = with_one_input(proto) if self.parts else proto
            walker = OnnxWalker(proto, folded)
            self.graph: Graph = walker.graph()
        except UnicodeError as error:  # protobuf decodes names when they are read
            raise ModelError(f"a name in it is not text: {error}") from error
        self.precision: torch.dtype = walker.dtype
        self._full_shape: Shape = walker.full_shape
        self._input_name = walker.input_name
        self.shapes: dict[str, Shape] = {n: tuple(v.shape) for n, v in walker.values.items() if v is not None}
        self._wide: Graph = self.graph if self.precision == torch.float64 else self.graph.to(dtype=torch.float64)
        self._proto = _without_dead_nodes(proto, walker)
        self._compare(self._probes())

    @classmethod
    def load(cls, path: str | os.PathLike[str], output: int | str | None = None) -> OnnxModel:
        """Read, import, compare on a few random inputs.

        Args:
            output: which of several outputs, a place or a name.

        Raises:
            InputError: no such output, no such file, or not a readable ONNX file; onnx or onnxruntime is not installed.
            UnsupportedError: an operator, or a use of one, that has no bounds here (says which, and where).
            ModelError: a model that is not valid, has weights that are not finite, or that onnxruntime refuses;
                graph and onnxruntime disagree.
        """
        proto = read_model(path)
        try:
            return cls(proto, str(path), output)
        except ModelError as error:
            error.args = (f"{Path(path).name}: {error}",)
            raise

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_session"}  # made again on first use

    @property
    def input_shape(self) -> Shape:
        return self.graph.input_shape

    @property
    def outputs(self) -> int:
        """Number of outputs, all dimensions together."""
        return int(torch.Size(self.graph.output_shape).numel())

    @cached_property
    def _session(self) -> Any:
        bytewise = any(node.op_type == "DequantizeLinear" for node in self._proto.graph.node)
        return session(_serialised(self._proto, self.name), f"{self.name} cannot be run", as_written=bytewise)

    def run(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:  # [B, *input_shape] -> [B, outputs]
        """The outputs at x.

        Args:
            dtype: None or the model's own precision: by onnxruntime, one example after another, in that precision;
                another one: by the graph.

        Raises:
            InputError: x is not of the model's input shape.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            raise InputError(f"{self.name} takes inputs of shape {list(self.input_shape)}, got {list(x.shape[1:])}")
        x = x.detach().cpu()
        if dtype is None or dtype == self.precision:
            return self._replayed(x.to(self.precision))
        if dtype == torch.float64:
            with torch.no_grad():
                return self._wide.forward(x.double()).flatten(1)
        return self._replayed(x.to(self.precision)).to(dtype)

    def _replayed(self, x: Tensor) -> Tensor:  # [B, *input]
        rows = []
        for one in x:
            try:
                (output,) = self._session.run(None, {self._input_name: one.reshape(self._full_shape).numpy()})
            except ModelError:
                raise
            except Exception as error:
                text = " ".join(str(error).split())[:300]
                raise ModelError(f"{self.name} cannot be run: onnxruntime says: {text}") from error
            rows.append(torch.from_numpy(output).flatten())
            if len(rows[-1]) != self.outputs:
                raise ModelError(f"{self.name}: {len(rows[-1])} outputs by onnxruntime, {self.outputs} by the graph")
        return torch.stack(rows) if rows else torch.empty(0, self.outputs, dtype=self.precision)

    def graph_for(self, example: Tensor) -> Graph:
        """The graph, for inputs like this example [B, *input_shape]. Raises InputError where it does not fit."""
        shape = tuple(example.shape[1:])
        if shape != self.input_shape:
            layout = other_layout(shape, lambda layout: permuted(shape, layout) == self.input_shape)
            why = f": {advice(shape, layout)}" if layout else ""
            raise InputError(f"{self.name} takes inputs of shape {list(self.input_shape)}, got {list(shape)}{why}")
        if example.dtype != self.precision:
            raise InputError(f"{self.name} takes inputs in {self.precision}, got {example.dtype}: convert them")
        return self.graph

    def check(self, lower: Tensor, upper: Tensor) -> None:  # both [*input_shape]
        """Compare the graph with onnxruntime on random points and corners of a box. Raises ModelError, InputError."""
        if tuple(lower.shape) != self.input_shape or tuple(upper.shape) != self.input_shape:
            raise InputError(f"the box of {self.name} must have shape {list(self.input_shape)}")
        if not bool((lower.isfinite() & upper.isfinite() & (lower <= upper)).all()):
            raise InputError(f"the box of {self.name} must have finite limits, lower <= upper")
        lower, upper = lower.detach().double().cpu(), upper.detach().double().cpu()
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(4, *self.input_shape, generator=generator, dtype=torch.float64)
        share[2:] = share[2:].round()
        points = lower + share * (upper - lower)
        self._compare(torch.minimum(torch.maximum(points, lower), upper).to(self.precision))

    def _probes(self) -> Tensor:  # [b, *input]
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(3, *self.input_shape, generator=generator, dtype=torch.float64)
        unit = torch.rand(2, *self.input_shape, generator=generator, dtype=torch.float64)
        return torch.cat([unit, normal[:1], normal[1:2] * 10, normal[2:] * 0.1]).to(self.precision)

    def _compare(self, x: Tensor) -> None:  # [b, *input]
        """On each point by itself, so that one with large outputs hides no difference of another.

        Points outside of a function's domain, where outputs are not finite, say nothing unless there are no others.
        """
        tolerance = _TOLERANCE[self.precision]
        outputs = self._replayed(x)
        finite = outputs.isfinite().all(1)
        for point, theirs in zip(x.split(1), outputs.split(1), strict=True):
            if finite.any() and not theirs.isfinite().all():
                continue
            for graph, dtype in ((self.graph, self.precision), (self._wide, torch.float64)):
                with torch.no_grad():
                    judge(graph.values(point.to(dtype)), theirs, tolerance, f"with onnxruntime in {dtype}")


def _serialised(proto: ModelProto, name: str) -> bytes:
    try:
        return proto.SerializeToString()
    except Exception as error:  # protobuf's own kinds: too large, mostly
        raise ModelError(f"{name} cannot be passed to onnxruntime: {error}") from error


def _without_dead_nodes(proto: ModelProto, walker: OnnxWalker) -> ModelProto:
    """The model that was looked at: operators that the output does not depend on are not run either."""
    if len(walker.nodes) == len(proto.graph.node):
        return proto
    pruned = type(proto)()
    pruned.CopyFrom(proto)
    del pruned.graph.node[:]
    pruned.graph.node.extend(walker.nodes)
    return pruned
