"""The walk over an ONNX graph, for one example: every operator becomes nodes, a constant, or an error that says where.

The batch dimension is 1, so a value's shape is known in full, and nothing forbids an operator to move entries across
it. A node of our graph has the value's shape without the leading 1, where there is one (`own_shape`). What only moves
entries runs on a tensor of entry numbers, as in `verifier.graph.walker`; what depends on constants alone is computed on
the spot. What each operator means is in `verifier.graph.onnx_layers` and its neighbours.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from verifier.errors import InternalError, ModelError, UnsupportedError, VerifierError
from verifier.graph.emitter import Emitter, Var
from verifier.graph.ir import Graph
from verifier.graph.onnx_file import MAX_ENTRIES, checked_shape, describe, ordered_nodes, stored_tensor
from verifier.ops.base import Operator, Shape
from verifier.ops.contract import Contract
from verifier.ops.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from verifier.ops.conv3d import Conv3d
from verifier.ops.handlers import ONNX as HANDLERS
from verifier.ops.handlers import Handler
from verifier.ops.linear import Linear
from verifier.ops.pad import Pad
from verifier.ops.product import Product
from verifier.ops.shape import Gather, Permute, Reshape

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: entries of one node of the graph, of all together, and of all constants that are computed
MAX_NODE_ENTRIES = 2**24
MAX_GRAPH_ENTRIES = 2**27
MAX_COMPUTED = 2**27
#: products that one example costs
MAX_PRODUCTS = 2**37
OLDEST_OPSET = 7
#: operators that only move entries about, with the kind of numbers that they are
_MOVING = frozenset((
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
))  # fmt: skip
#: operators that read conditions or whole numbers as they are; all others are given floating-point numbers
_COUNTING = _MOVING | {
    "And", "Cast", "DequantizeLinear", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or",
    "Shape", "Size", "Where", "Xor",
}  # fmt: skip
#: operators whose outputs may be left out
RECURRENT = ("GRU", "LSTM", "RNN")


@dataclass(frozen=True)
class OnnxValue:
    """A value that depends on the input: a node, and the shape that ONNX gives it.

    Conditions (`torch.bool`) and whole numbers are nodes of numbers like all others; `kind` says so.
    """

    var: Var
    shape: Shape
    kind: torch.dtype | None = None  #: None: the model's precision


#: what an operator reads: None where an optional input is left out
Operand = OnnxValue | Tensor | None


#: the results of the walker's current operator, whose inputs are all constants
Fold = Callable[["OnnxWalker", list[Any]], Any]


def supported_onnx_operators() -> list[str]:
    """Names of the ONNX operators that a model may use on its input."""
    return sorted(HANDLERS)


def own_shape(shape: Sequence[int]) -> Shape:
    """The shape of a node of our graph, from the shape of its value: without a leading 1."""
    return tuple(shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)


class OnnxWalker(Emitter):
    """Turns the operators of an ONNX model into graph nodes, one after another.

    Args:
        fold: computes what depends on constants alone (verifier.graph.onnx_constants).
    """

    def __init__(self, model: ModelProto, fold: Fold) -> None:
        self.model, self.fold = model, fold
        self.opset = _opset(model)
        self.constants = _initialisers(model)
        self.input_name, self.full_shape, dtype = _input(model, self.constants)
        super().__init__(own_shape(self.full_shape), dtype)
        self.values: dict[str, Any] = {**self.constants, self.input_name: OnnxValue(Var(0), self.full_shape)}
        self.nodes = ordered_nodes(model.graph, set(self.values), self.output_name)
        self.read = {name for node in self.nodes for name in node.input if name} | {self.output_name}
        self.node: NodeProto | None = None
        self.entries = self.folded = self.products = 0

    @property
    def output_name(self) -> str:
        outputs = self.model.graph.output
        if len(outputs) != 1:
            names = ", ".join(o.name for o in outputs)
            raise UnsupportedError(
                f"the model has {len(outputs)} outputs ({names}); exactly one is needed: choose it by output= or "
                "--output, or declare them all in a VNN-LIB 2.0 property"
            )
        return outputs[0].name

    def graph(self) -> Graph:
        for node in self.nodes:
            self.node = node
            self._take(node, self._call(node))
        output = self.values[self.output_name]
        if not isinstance(output, OnnxValue):
            raise UnsupportedError("the model's output does not depend on its input")
        if output.kind is not None:
            raise UnsupportedError("the model's output is a condition or a whole number: cast it to floating point")
        var = output.var
        if not self.shape(var) or var.index == 0:  # one number is a vector of length one; a graph has an operator
            var = self.emit(Reshape(self.shape(var) or (1,)), var)
        self.builder.rounded, self.builder.computed = self.rounded, self.computed
        return self.builder.build(var.index)

    # --- reading a node

    def _call(self, node: NodeProto) -> Any:
        if node.domain not in ("", "ai.onnx"):
            raise self.unsupported(f"it is of the domain {node.domain!r}, not of ONNX itself")
        inputs = [self.values[name] if name else None for name in node.input]
        try:
            if not any(isinstance(value, OnnxValue) for value in inputs):
                return self.fold(self, inputs)
            if node.op_type not in HANDLERS:
                raise self.unsupported(_why_not(node.op_type), list_all=True)
            handler = HANDLERS[node.op_type]
            self.check_inputs(handler, inputs)
            self._check_numbers(node, inputs)
            return self._of_kind(node, inputs, handler(self, *inputs))
        except VerifierError:
            raise
        except Exception as error:  # what torch says of sizes that do not fit
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(str(self.unsupported(f"it cannot be read: {text}"))) from error

    def _check_numbers(self, node: NodeProto, inputs: Sequence[Operand]) -> None:
        """Refuses what computes otherwise with conditions or whole numbers than with floating-point numbers."""
        counting = [v for v in inputs if isinstance(v, OnnxValue) and v.kind is not None]
        if counting and node.op_type not in _COUNTING:
            raise self.unsupported("it computes with conditions or whole numbers: cast them to floating point first")

    def _of_kind(self, node: NodeProto, inputs: Sequence[Operand], result: Any) -> Any:
        """What an operator that moves or chooses entries returns, of the kind that they are."""
        entries = inputs[1:] if node.op_type == "Where" else inputs if node.op_type in _MOVING else ()
        kind = next((v.kind for v in entries if isinstance(v, OnnxValue)), None)
        if kind is None:
            return result
        if isinstance(result, list | tuple):
            return type(result)(self._of_kind(node, inputs, r) for r in result)
        return replace(result, kind=kind) if isinstance(result, OnnxValue) else result

    def check_inputs(self, handler: Handler, inputs: Sequence[Operand]) -> None:
        """Refuses another number of inputs than the handler takes, and the lack of one that it needs."""
        code, count = handler.__code__, len(inputs)
        most = code.co_argcount - 1
        least = most - len(handler.__defaults__ or ())
        if count < least or (count > most and not code.co_flags & 4):
            raise ModelError(str(self.unsupported(f"it has {count} inputs, and takes {least} to {most}")))
        if any(value is None for value in inputs[:least]):
            raise ModelError(str(self.unsupported("an input that it needs is missing")))

    def _take(self, node: NodeProto, result: Any) -> None:
        results = list(result) if isinstance(result, tuple | list) else [result]
        names = list(node.output)
        if any(name in self.read for name in names[len(results) :]):
            raise self.unsupported(f"its output number {len(results) + 1} ({names[len(results)]!r}) is not computed")
        if (
            len(results) > 1 and node.op_type not in RECURRENT and not all(names)
        ):  # onnxruntime fails hard where they are
            raise ModelError(str(self.unsupported("one of its outputs has no name")))
        for name, value in zip(names, results, strict=False):
            if isinstance(value, OnnxValue):
                if self.shape(value.var) != own_shape(value.shape):
                    raise InternalError(f"{describe(node)}: {self.shape(value.var)} holds {value.shape}")
            elif isinstance(value, Tensor):
                self.folded += value.numel()
                if self.folded > MAX_COMPUTED:
                    raise self.unsupported(f"with it the model computes more than {MAX_COMPUTED} constants")
            self.values[name] = value

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the current node: int, float, text, list of ints or floats, or tensor."""
        assert self.node is not None
        for attribute in self.node.attribute:
            if attribute.name == name:
                return self._attribute(attribute)
        return default

    def _attribute(self, attribute: Any) -> Any:
        kind = attribute.AttributeType.Name(attribute.type)
        if kind == "INT":
            return int(attribute.i)
        if kind == "FLOAT":
            return float(attribute.f)
        if kind == "STRING":
            return attribute.s.decode("utf-8", "replace")
        if kind == "INTS":
            return [int(i) for i in attribute.ints]
        if kind == "FLOATS":
            return [float(f) for f in attribute.floats]
        if kind == "TENSOR":
            return stored_tensor(attribute.t, f"attribute {attribute.name!r} of {self.label!r}")
        raise self.unsupported(f"its attribute {attribute.name!r} is of kind {kind}")

    def attribute_texts(self, name: str) -> list[str]:
        """A list of texts of the current operator."""
        assert self.node is not None
        found = next((a for a in self.node.attribute if a.name == name), None)
        return [] if found is None else [s.decode("utf-8", "replace") for s in found.strings]

    def integers(self, value: Operand, what: str) -> list[int]:
        """The entries of a constant input that holds integers."""
        if isinstance(value, OnnxValue) or value is None:
            raise self.unsupported(f"its {what} must be given by constants")
        if value.is_floating_point() or value.dtype == torch.bool or value.numel() > 10_000:
            raise ModelError(str(self.unsupported(f"its {what} must be a few integers")))
        return [int(v) for v in value.flatten()]

    def tensor(self, value: Operand, what: str) -> Tensor:  # [*shape]
        """A constant input."""
        if not isinstance(value, Tensor):
            raise self.unsupported(f"its {what} depends on the model's input or is missing: not linear")
        return value

    def dependent(self, value: Operand) -> OnnxValue:
        """The first input, where it is the one that depends on the model's input."""
        if not isinstance(value, OnnxValue):
            raise self.unsupported("its first input is constant, and another depends on the model's input")
        return value

    def weights(self, value: Operand, what: str) -> Tensor:  # [*shape]
        """A constant input that is computed with: finite, in the model's precision."""
        constant = self.constant(self.tensor(value, what), 0)
        assert isinstance(constant, Tensor)
        return constant

    # --- messages

    @property
    def label(self) -> str:
        if self.node is None:
            return "output"
        return next(iter(filter(None, self.node.output)), "") or self.node.name

    @property
    def origin(self) -> str:
        if self.node is None:
            return ""
        return f"{self.node.name} ({self.node.op_type})" if self.node.name else f"({self.node.op_type})"

    def unsupported(self, reason: str, list_all: bool = False) -> UnsupportedError:
        where = f"{describe(self.node)}, opset {self.opset}," if self.node is not None else "the model"
        message = f"{where} cannot be verified: {reason}."
        return UnsupportedError(f"{message}\n{_supported_list()}" if list_all else message)

    # --- building

    def check_size(self, shape: Sequence[int], constant: bool = False) -> Shape:
        """The shape, where it is not absurd; to be called before memory is taken for it."""
        limit = MAX_ENTRIES if constant else MAX_NODE_ENTRIES
        if math.prod(shape) > limit:
            raise self.unsupported(f"its result of shape {list(shape)} has more than {limit} entries")
        return tuple(int(n) for n in shape)

    def _emit(self, op: Operator, parents: Sequence[int]) -> int:
        """As in the base, where the result is of a sane size: memory is taken after that is known."""
        shapes = [self.builder.nodes[p].shape for p in parents]
        size = most_entries(op, shapes)
        if size > MAX_NODE_ENTRIES:
            raise self.unsupported(f"its result has {size} entries; at most {MAX_NODE_ENTRIES} are taken")
        self.entries += size
        if self.entries > MAX_GRAPH_ENTRIES:
            raise self.unsupported(f"with it the model has more than {MAX_GRAPH_ENTRIES} intermediate values")
        if isinstance(op, Linear | Conv1d | Conv2d | Conv3d | ConvTranspose1d | ConvTranspose2d):
            of_input = isinstance(op, ConvTranspose1d | ConvTranspose2d)
            positions = (math.prod(shapes[0]) if of_input else size) // (op.weight.shape[0] or 1)
            self.products += positions * op.weight.numel()
        if self.products > MAX_PRODUCTS:
            raise self.unsupported(f"with it one example costs more than {MAX_PRODUCTS} products")
        if size == 0:
            raise self.unsupported("its result has no entries")
        return super()._emit(op, parents)

    def constant(self, value: Any, rank: int) -> Tensor | float:  # [*shape]
        if isinstance(value, Tensor):
            if value.dtype != self.dtype:
                raise self.unsupported(f"a constant in {value.dtype} beside values in {self.dtype}")
            if not value.isfinite().all():
                raise ModelError(str(self.unsupported("its constant holds NaN or infinite values")))
            return value
        if not abs(value) < math.inf:
            raise ModelError(str(self.unsupported(f"its constant {value} is not finite")))
        return float(value)

    def reshaped(self, var: Var, shape: Sequence[int]) -> Var:
        """The node in another shape (of our graph)."""
        return var if self.shape(var) == tuple(shape) else self.emit(Reshape(shape), var)

    def value(self, var: Var, shape: Sequence[int]) -> OnnxValue:
        """The node as a value of a shape of ONNX."""
        return OnnxValue(self.reshaped(var, own_shape(shape)), tuple(shape))

    def in_full(self, value: OnnxValue) -> Var:
        """The node in the shape that ONNX gives it, a leading 1 included."""
        return self.reshaped(value.var, value.shape)

    def batched(self, value: OnnxValue, least: int = 2) -> Var:
        """The node of a value [1, ...] of at least `least` dimensions, without the 1."""
        if len(value.shape) < least or value.shape[0] != 1:
            raise self.unsupported(f"its input has shape {list(value.shape)}; a batch of 1 in front is needed")
        return value.var

    def moved(self, value: OnnxValue | Tensor, move: Callable[[Tensor], Any]) -> Any:
        """What `move` makes of the entries, a tensor [*shape] of the value's full shape: one value, or a list of them.

        A move that repeats entries needs a `check_size` first.
        """
        if isinstance(value, Tensor):
            return move(value)
        found = move(torch.arange(math.prod(value.shape)).reshape(value.shape))
        return (
            [self._followed(value, m) for m in found]
            if isinstance(found, list | tuple)
            else self._followed(value, found)
        )

    def _followed(self, value: OnnxValue, numbers: Tensor) -> OnnxValue:  # [*shape]
        if numbers.numel() == 0:
            raise self.unsupported("its result has no entries")
        shape = tuple(numbers.shape)
        return OnnxValue(self.gathered(value.var, numbers.reshape(own_shape(shape))), shape)

    def transposed(self, value: OnnxValue | Tensor, order: Sequence[int]) -> Any:  # [*shape]
        """Dimensions reordered, by the operator for it where one does."""
        if isinstance(value, Tensor):
            return value.permute(*order)
        shape = tuple(value.shape[d] for d in order)
        if [d for d in order if value.shape[d] != 1] == [d for d, n in enumerate(value.shape) if n != 1]:
            return self.value(value.var, shape)
        if len(order) > 1 and order[0] == 0 and value.shape[0] == 1:
            return OnnxValue(self.emit(Permute([d - 1 for d in order[1:]]), value.var), shape)
        return self.value(self.emit(Permute(order), self.in_full(value)), shape)

    def axis(self, given: int, rank: int) -> int:
        """A dimension's number from 0."""
        if not -rank <= given < max(rank, 1):
            raise ModelError(str(self.unsupported(f"it names axis {given} of {rank} dimensions")))
        return given % rank if rank else 0

    def axes(self, given: Sequence[int], rank: int) -> list[int]:
        """Dimensions' numbers from 0, each once."""
        found = [self.axis(a, rank) for a in given]
        if len(set(found)) < len(found):
            raise ModelError(str(self.unsupported(f"it names an axis twice: {list(given)}")))
        return found

    def aligned(self, *operands: OnnxValue | Tensor) -> tuple[list[Any], Shape]:  # [*shape]
        """Nodes and constants in shapes of one rank that broadcast against each other, and their common full shape."""
        shape = self.check_size(np.broadcast_shapes(*(tuple(o.shape) for o in operands)))
        lead = len(shape) > 1 and shape[0] == 1
        aligned: list[Any] = []
        for operand in operands:
            own = ((1,) * (len(shape) - len(operand.shape)) + tuple(operand.shape))[lead:]
            if isinstance(operand, OnnxValue):
                aligned.append(self.reshaped(operand.var, own))
            else:
                aligned.append(operand.reshape(own))
        return aligned, shape

    def elementwise(self, function: Callable[..., Var], *operands: OnnxValue | Tensor) -> OnnxValue:
        """function of operands (`Var` or `Tensor` [*shape]) that broadcast against each other."""
        aligned, shape = self.aligned(*operands)
        return self.value(self.expanded(function(*aligned), own_shape(shape)), shape)


def most_entries(op: Operator, shapes: Sequence[Shape]) -> int:
    """How many entries the result has, or more, found without computing it."""
    sizes = [math.prod(s) for s in shapes]
    if isinstance(op, Gather):
        return op.index.numel()
    if isinstance(op, Product):
        return op.left.numel()
    if isinstance(op, Contract):
        of = dict(zip(op.own + op.other, (*shapes[0], *op.weight.shape), strict=True))
        return math.prod(of[letter] for letter in op.result)
    if isinstance(op, Conv3d):
        padding = op.settings["padding"]
        assert not isinstance(padding, int)
        grown = (n + 2 * p for n, p in zip(shapes[0][1:], padding, strict=True))
        return op.weight.shape[0] * math.prod(grown)
    if isinstance(op, Linear):
        return sizes[0] // max(1, op.weight.shape[1]) * op.weight.shape[0]
    if isinstance(op, Pad):
        added = [a + b for a, b in zip(op.amounts[::2], op.amounts[1::2], strict=True)][::-1]
        ahead = len(shapes[0]) - len(added)
        return math.prod(n + (0 if d < ahead else added[d - ahead]) for d, n in enumerate(shapes[0]))
    if isinstance(op, Conv1d | Conv2d):
        return op.weight.shape[0] * math.prod(max(0, n) for n in op._output_size(shapes[0]))
    if isinstance(op, ConvTranspose1d | ConvTranspose2d):
        each = zip(shapes[0][1:], op.stride, op.weight.shape[2:], op.dilation, op.output_padding, strict=True)
        channels = op.weight.shape[1] * op.groups
        return channels * math.prod((n - 1) * s + (k - 1) * d + 1 + beyond for n, s, k, d, beyond in each)
    return sum(sizes)


# --- the model around the nodes


def _opset(model: ModelProto) -> int:
    versions = [int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")]
    version = max(versions, default=1)
    if version < OLDEST_OPSET:
        raise UnsupportedError(f"the model is of ONNX opset {version}; from {OLDEST_OPSET} on they are read")
    return version


def _initialisers(model: ModelProto) -> dict[str, Tensor]:  # [*shape] each
    tensors: dict[str, Tensor] = {}
    for proto in model.graph.initializer:
        if proto.name in tensors:
            raise ModelError(f"initialiser {proto.name!r} is there twice")
        tensors[proto.name] = stored_tensor(proto, f"initialiser {proto.name!r}")
    return tensors


def _input(model: ModelProto, constants: dict[str, Tensor]) -> tuple[str, Shape, torch.dtype]:  # [*shape] each
    """Name, full shape and precision of the one input. Old files list their weights among the inputs."""
    from onnx import TensorProto

    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise UnsupportedError(f"the model has {len(inputs)} inputs ({names}); exactly one is needed")
    (one,) = inputs
    kind = one.type.tensor_type
    precision = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64}.get(kind.elem_type)
    if precision is None:
        raise UnsupportedError(f"the input {one.name!r} is not a tensor in float32 or float64")
    if not kind.HasField("shape"):
        raise UnsupportedError(f"the input {one.name!r} has no shape: export the model with a fixed one")
    sizes = []
    for axis, dim in enumerate(kind.shape.dim):
        if dim.WhichOneof("value") == "dim_value":
            sizes.append(int(dim.dim_value))
        elif axis == 0:
            sizes.append(1)
        else:
            raise UnsupportedError(
                f"dimension {axis} of the input {one.name!r} has no fixed size ({dim.dim_param or 'unnamed'}): "
                "only the first, the batch, may be open"
            )
    shape = checked_shape(sizes, f"the input {one.name!r}", MAX_NODE_ENTRIES)
    if math.prod(shape) == 0 or not shape:
        raise ModelError(f"the input {one.name!r} has shape {list(shape)}: it must hold an entry")
    return one.name, shape, precision


def _supported_list() -> str:
    text = f"Supported: {', '.join(supported_onnx_operators())}."
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _why_not(kind: str) -> str:
    if kind in ("ArgMax", "ArgMin", "TopK", "Hardmax"):
        return (
            "which entry is the largest is a number that jumps. Cut it off, and ask for it as a specification on the "
            "outputs before it: the class of the input stays the largest"
        )
    if kind in ("If", "Loop", "Scan", "SequenceMap"):
        return "control flow that depends on the input is not followed"
    return "it is not among the supported operators"
