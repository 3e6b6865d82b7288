"""PyTorch models to graphs, by torch.export.

The traced ATen graph is walked once. Whatever does not depend on the input is computed on the spot, with gradients;
the rest becomes nodes whose operators hold the model's own tensors. Moving of entries (reshape, slice, flip, ...) is
not interpreted operator by operator: the operator itself runs on a tensor of entry numbers, and where the numbers
went says what it did, and whether it mixed examples of the batch.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verifier.errors import InputError, ModelError, UnsupportedError
from verifier.graph.ir import Graph, GraphBuilder
from verifier.graph.runner import CHECKS, ModelRunner, lifted, static_batch, user_input
from verifier.ops.absolute import Abs
from verifier.ops.base import Operator, Shape
from verifier.ops.clip import Clip
from verifier.ops.concat import Concat
from verifier.ops.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from verifier.ops.elementwise import Add, Divide, Multiply, Shift, Subtract
from verifier.ops.linear import Linear
from verifier.ops.norm import BatchNorm
from verifier.ops.pad import Pad, same_padding
from verifier.ops.pool import (
    AdaptiveAveragePool,
    AveragePool,
    Reduce,
    adaptive_taps,
    max_pool,
    pool_index,
    window_taps,
)
from verifier.ops.relu import LeakyReLU, ReLU
from verifier.ops.shape import Gather, Permute, Reshape
from verifier.ops.smooth import Sigmoid, Tanh

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Args = dict[str, Any]
Handler = Callable[["_Walker", Args], Any]

# fmt: off
#: operators that only move entries about: run on entry numbers (see the module's docstring)
_MOVES = frozenset((
    "_unsafe_view", "alias", "channel_shuffle", "chunk", "clone", "contiguous", "detach", "diagonal", "expand",
    "expand_as", "flatten", "flip", "index", "index_select", "lift_fresh_copy", "mT", "movedim", "moveaxis", "narrow",
    "numpy_T", "permute", "pixel_shuffle", "pixel_unshuffle", "positive", "reflection_pad1d", "reflection_pad2d",
    "repeat", "repeat_interleave", "replication_pad1d", "replication_pad2d", "reshape", "reshape_as", "roll", "select",
    "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "tensor_split", "tile", "transpose",
    "unbind", "unflatten", "unfold", "unsqueeze", "upsample_nearest1d", "upsample_nearest2d", "view", "view_as",
))
#: operators that read only the shape of their input
_SHAPE_ONLY = frozenset(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"))
#: operators that make constants without rounding
_EXACT = _MOVES | _SHAPE_ONLY | {
    "_to_copy", "abs", "arange", "cat", "eye", "full", "neg", "ones", "scalar_tensor", "stack", "to", "zeros",
}
# fmt: on

_HANDLERS: dict[str, Handler] = {}


def supported_operators() -> list[str]:
    """Names of the ATen operators that a traced model may use on its input."""
    return sorted(_MOVES | _SHAPE_ONLY | set(_HANDLERS))


def import_torch(model: nn.Module | ExportedProgram, example: Tensor) -> Graph:
    """The model as a graph of live tensors, compared with the model before it is returned.

    Constants that the model computes from its weights on every call (a reparametrised weight, say) are computed once,
    here: gradients flow through them, but after a change of the weights the model has to be imported again.

    Args:
        example: [B, *input], for the input's shape and precision; its values serve for the comparison.

    Raises:
        InputError: the example is unusable.
        UnsupportedError: the model cannot be traced, or uses what has no relaxation here (says what, where).
        ModelError: training mode, weights that are not finite, or graph and model disagree.
    """
    if not isinstance(example, Tensor) or not example.is_floating_point():
        kind = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise InputError(f"the example must be a tensor of floating-point numbers, [batch, *input]; it is {kind}")
    if example.dim() < 1 or example.numel() == 0:
        raise InputError(f"the example must have shape [batch, *input] and hold an entry, not {list(example.shape)}")
    if example.dtype not in (torch.float32, torch.float64):
        raise InputError(f"models in float32 or float64 can be verified, not in {example.dtype}: convert with .float()")
    if isinstance(model, nn.Module):
        _check_module(model, example)
        program = _traced(model, example)
        tensors = _live(model, program)
    else:
        program = model
        _check_program(program, example)
        program = _functional(program)
        tensors = lifted(program)
    walker = _Walker(program, tensors, example)
    graph = walker.graph()
    _compare(graph, ModelRunner(model), example, walker.rounded)
    return graph


# --- tracing ---------------------------------------------------------------------------------------------------------


def _check_module(model: nn.Module, example: Tensor) -> None:
    different = nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU
    if model.training:
        raise ModelError("the model is in training mode: call model.eval() first")
    for name, module in model.named_modules():
        if module.training and isinstance(module, different):
            kind = type(module).__name__
            raise ModelError(f"submodule {name!r} ({kind}) is in training mode: call model.eval() first")
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and tensor.dtype != example.dtype:
            raise InputError(f"parameter {name!r} is {tensor.dtype} but the example {example.dtype}: use one precision")
    required = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if len(required) > 1:
        raise UnsupportedError(
            f"the model takes several inputs ({', '.join(required)}); models of one input tensor can be verified: "
            "wrap it in a module that fixes the others"
        )


def _traced(model: nn.Module, example: Tensor) -> ExportedProgram:
    """torch.export with a batch of two copies of the example."""
    batch = example[:1].detach().expand(2, *example.shape[1:]).clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (batch,))
    except Exception as error:
        raise UnsupportedError(
            f"torch.export cannot trace the model on an input of shape {list(batch.shape)}: {type(error).__name__}: "
            f"{error}\nThe usual reason is control flow that depends on values, or a batch size written into the model."
        ) from error
    return _functional(program)


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The same program without operators that work in place."""
    targets = [n.target for n in program.graph.nodes if n.op == "call_function"]
    if not any(t._schema.is_mutable for t in targets if hasattr(t, "_schema")):
        return program
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program.run_decompositions({})
    except Exception as error:
        raise UnsupportedError(f"the model's in-place operations cannot be rewritten: {error}") from error


def _live(model: nn.Module, program: ExportedProgram) -> dict[str, Tensor]:
    """Per placeholder the module's own parameter or buffer object, so that gradients reach it."""
    own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own.update(model.named_buffers(remove_duplicate=False))
    tensors = lifted(program)
    for spec in program.graph_signature.input_specs:
        if spec.target in own:
            tensors[spec.arg.name] = own[spec.target]
        elif spec.arg.name in tensors and isinstance(spec.target, str):  # a tensor attribute of some submodule
            path, _, name = spec.target.rpartition(".")
            owner = dict(model.named_modules()).get(path)
            attribute = getattr(owner, name, None)
            if isinstance(attribute, Tensor) and attribute.shape == tensors[spec.arg.name].shape:
                tensors[spec.arg.name] = attribute
    return tensors


def _check_program(program: ExportedProgram, example: Tensor) -> None:
    inputs = user_input(program)
    if len(inputs) != 1:
        raise UnsupportedError(f"the exported program takes {len(inputs)} inputs; one input tensor is needed")
    value = inputs[0].meta["val"]
    shape = tuple(value.shape[1:])
    if any(not isinstance(n, int) for n in shape):
        raise UnsupportedError(f"the exported program's input shape {list(value.shape)} is dynamic beyond the batch")
    if value.dim() == 0 or shape != tuple(example.shape[1:]) or value.dtype != example.dtype:
        raise InputError(
            f"the exported program takes {value.dtype} of shape {list(value.shape)}, "
            f"the example is {example.dtype} of shape {list(example.shape)}"
        )


# --- walking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Var:
    """A value that depends on the input: a node of the graph under construction."""

    index: int


class _Walker:
    """Turns the nodes of a traced program into graph nodes, one after another."""

    def __init__(self, program: ExportedProgram, tensors: dict[str, Tensor], example: Tensor) -> None:
        inputs = user_input(program)
        if len(inputs) != 1:
            raise UnsupportedError(f"the model takes {len(inputs)} input tensors; one is needed")
        self.program, self.tensors, self.dtype = program, tensors, example.dtype
        self.batch = static_batch(program) or 2
        self.builder = GraphBuilder(tuple(example.shape[1:]))
        self.values: dict[torch.fx.Node, Any] = {}
        self.node: torch.fx.Node = inputs[0]
        self.names: set[str] = {"input"}
        self.rounded = False  #: some constant was computed with rounding in the model's precision

    def graph(self) -> Graph:
        for node in self.program.graph.nodes:
            self.node = node
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "get_attr":
                self.values[node] = None  # the body of a higher-order operator, which is refused by name
            else:
                return self._finish(node)
        raise UnsupportedError("the traced program has no output")

    def _placeholder(self, node: torch.fx.Node) -> Any:
        if node.name not in self.tensors:
            return _Var(0) if node in user_input(self.program) else None
        tensor = self.tensors[node.name]
        if node.users and isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"parameter {self._target(node)!r} holds NaN or infinite values")
        return tensor

    def _target(self, node: torch.fx.Node) -> str:
        specs = self.program.graph_signature.input_specs
        return next((str(s.target) for s in specs if s.arg.name == node.name), node.name)

    def _finish(self, node: torch.fx.Node) -> Graph:
        specs = self.program.graph_signature.output_specs
        changed = [s.target for s in specs if s.kind.name == "BUFFER_MUTATION"]
        if changed:
            raise ModelError(f"the model changes its own buffers when it runs ({', '.join(map(str, changed))})")
        kinds = zip(specs, self._resolve(node.args[0]), strict=True)
        outputs = [value for spec, value in kinds if spec.kind.name == "USER_OUTPUT"]
        if len(outputs) != 1:
            raise UnsupportedError(f"the model returns {len(outputs)} values; a single output tensor is needed")
        if not isinstance(outputs[0], _Var):
            raise UnsupportedError("the model's output does not depend on its input")
        output = outputs[0]
        if not self.shape(output):  # one number per example: a vector of length one
            output = self.emit(Reshape((1,)), output)
        return self.builder.build(output.index)

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self.values[value]
        if isinstance(value, list | tuple):
            return type(value)(self._resolve(v) for v in value)
        return value

    def _call(self, node: torch.fx.Node) -> Any:
        name = _name(node.target)
        target: Any = node.target
        if name in CHECKS:
            return None
        args = self._resolve(tuple(node.args))
        kwargs = {k: self._resolve(v) for k, v in node.kwargs.items()}
        if target is operator.getitem:
            return args[0][args[1]]
        if not _depends(args) and not _depends(tuple(kwargs.values())):
            return self._fold(name, args, kwargs)
        if name in _SHAPE_ONLY:
            return target(torch.zeros(self.batch, *self.shape(args[0]), dtype=self.dtype), *args[1:], **kwargs)
        if name in _MOVES:
            return self._move(name, args, kwargs)
        if name not in _HANDLERS:
            raise self.unsupported("it is not among the supported operators", list_all=True)
        return _HANDLERS[name](self, _bound(target, args, kwargs))

    def _fold(self, name: str, args: tuple[Any, ...], kwargs: Args) -> Any:
        try:
            result = self.node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise self.unsupported(f"it cannot be computed ahead: {error}") from error
        floats = isinstance(result, Tensor) and result.is_floating_point() and result.dtype != torch.float64
        if floats and name not in _EXACT:
            self.rounded = True
        return result

    # --- messages

    @property
    def origin(self) -> str:
        """Where in the user's module the current node comes from, such as 'features.2 (Conv2d)'."""
        stack = self.node.meta.get("nn_module_stack") or {}
        frames = [f for key, f in stack.items() if not str(key).startswith("_empty")]
        if not frames:
            return ""
        path, kind = frames[-1]
        kind = kind if isinstance(kind, str) else kind.__name__
        kind = kind.rpartition(".")[2]
        return f"{path} ({kind})" if path else f"({kind})"

    def unsupported(self, reason: str, list_all: bool = False) -> UnsupportedError:
        """An error that says which operator, where, and why."""
        parts = [f"operator {self.node.target} (graph node {self.node.name!r}) cannot be verified: {reason}."]
        if self.origin:
            parts.append(f"In the model: {self.origin}.")
        lines = [line.strip() for line in (self.node.meta.get("stack_trace") or "").splitlines() if line.strip()]
        if lines:
            parts.append("At: " + " | ".join(lines[-2:]) + ".")
        if list_all:
            parts.append("Supported: " + ", ".join(supported_operators()) + ".")
        return UnsupportedError(" ".join(parts))

    def mixes(self) -> UnsupportedError:
        return self.unsupported("it mixes the batch dimension (dimension 0) with others: examples are not independent")

    def training(self) -> ModelError:
        return ModelError(f"{self.unsupported('it behaves as in training')} Call model.eval(), and export it so.")

    # --- building

    def shape(self, var: _Var) -> Shape:
        return self.builder.nodes[var.index].shape

    def emit(self, op: Operator, *parents: _Var) -> _Var:
        return _Var(self._emit(op, [p.index for p in parents]))

    def _emit(self, op: Operator, parents: Sequence[int]) -> int:
        base, number = self.node.name, 1
        name = base
        while name in self.names:
            number += 1
            name = f"{base}.{number}"
        self.names.add(name)
        return self.builder.add(op, parents, name, self.origin)

    def maximum(self, var: _Var, index: Tensor) -> _Var:
        """Maximum over the first dimension of var[index]."""
        return _Var(max_pool(self._emit, var.index, index))

    def dims(self, given: Any, rank: int) -> list[int]:
        """Batch-free dimensions, from those of a tensor of `rank` dimensions with the batch."""
        given = [given] if isinstance(given, int) else list(given or ())
        dims = [d % rank for d in given]
        if not dims or 0 in dims:
            raise self.mixes()
        return [d - 1 for d in dims]

    def gathered(self, var: _Var, index: Tensor) -> _Var:
        """Entries index (of the result's shape) of the flattened node, by the simplest operator that does it."""
        shape, target = self.shape(var), tuple(index.shape)
        size = int(torch.Size(shape).numel())
        if index.numel() != size or not torch.equal(index.flatten(), torch.arange(size)):
            return self.emit(Gather(index.contiguous()), var)
        return var if target == shape else self.emit(Reshape(target), var)

    def _move(self, name: str, args: tuple[Any, ...], kwargs: Args) -> Any:
        var = args[0]
        if not isinstance(var, _Var):
            raise self.unsupported("it selects entries of a constant by the input's values")
        if kwargs.get("dtype") not in (None, self.dtype):
            raise self.unsupported("it changes the precision")
        shape = self.shape(var)
        order = self._order(name, args, len(shape) + 1)
        if order is not None:
            return var if order == list(range(len(order))) else self.emit(Permute(order), var)
        size = int(torch.Size(shape).numel())
        numbers = torch.arange(self.batch * size, dtype=torch.float64).reshape(self.batch, *shape)
        rest = [self._beside(a) for a in args[1:]]
        kwargs = {k: v for k, v in kwargs.items() if k != "dtype"}
        try:
            moved = self.node.target(numbers, *rest, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise self.unsupported(f"its arguments cannot be followed: {error}") from error
        if isinstance(moved, list | tuple):
            return tuple(self._followed(var, m, size) for m in moved)
        return self._followed(var, moved, size)

    def _beside(self, value: Any) -> Any:
        """An argument that goes along with entry numbers: of a node only the shape counts."""
        if isinstance(value, list | tuple):
            return type(value)(self._beside(v) for v in value)
        if isinstance(value, _Var):
            return torch.zeros(self.batch, *self.shape(value))
        return value.cpu() if isinstance(value, Tensor) else value

    def _followed(self, var: _Var, numbers: Tensor, size: int) -> _Var:
        """The node that holds the entries of these numbers [B, *result], where each example kept to itself."""
        if numbers.dim() == 0 or len(numbers) != self.batch:
            raise self.mixes()
        numbers = numbers.to(torch.int64)
        owner = torch.arange(self.batch).reshape(-1, *(1,) * (numbers.dim() - 1))
        index = numbers - owner * size
        if index.numel() == 0 or bool(((index < 0) | (index >= size) | (index != index[:1])).any()):
            raise self.mixes()
        return self.gathered(var, index[0])

    def _order(self, name: str, args: tuple[Any, ...], rank: int) -> list[int] | None:
        """Batch-free order of dimensions where the operator is a plain permutation."""
        if name == "permute":
            order = [d % rank for d in args[1]]
        elif name in ("transpose", "swapaxes", "swapdims", "mT"):
            order = list(range(rank))
            i, j = (args[1] % rank, args[2] % rank) if len(args) > 2 else (rank - 2, rank - 1)
            order[i], order[j] = j, i
        else:
            return None
        if order[0] != 0:
            raise self.mixes()
        return [d - 1 for d in order[1:]]

    # --- constants and broadcasting

    def constant(self, value: Any, rank: int) -> Tensor | float:
        """A constant operand without its batch dimension; `rank` is the other operand's, the batch counted."""
        if isinstance(value, bool | int | float):
            if not abs(value) < float("inf"):
                raise ModelError(str(self.unsupported(f"its constant {value} is not finite")))
            return float(value)
        if not isinstance(value, Tensor):
            raise self.unsupported(f"a constant of type {type(value).__name__}")
        if value.dim() == rank and rank > 0:
            if len(value) not in (1, self.batch) or not bool((value == value[:1]).all()):
                raise self.mixes()
            value = value[0]
        elif value.dim() > rank:
            raise self.mixes()
        if value.dtype != self.dtype:
            if value.is_complex() or (value.dim() and torch.promote_types(value.dtype, self.dtype) != self.dtype):
                raise self.unsupported(f"a constant in {value.dtype} changes the precision from {self.dtype}")
            value = float(value) if value.dim() == 0 and not value.requires_grad else value.to(self.dtype)
        if isinstance(value, Tensor) and not value.isfinite().all():
            raise ModelError(str(self.unsupported("its constant holds NaN or infinite values")))
        return value

    def expanded(self, var: _Var, shape: Shape) -> _Var:
        """The node broadcast to a shape of the same or a higher rank (batch-free)."""
        own = self.shape(var)
        if own == tuple(shape):
            return var
        index = torch.arange(int(torch.Size(own).numel())).reshape(own)
        return self.gathered(var, index.expand(shape))

    def broadcast(self, a: _Var, b: _Var) -> tuple[_Var, _Var]:
        """Both nodes in their common shape."""
        first, second = self.shape(a), self.shape(b)
        if len(first) != len(second):
            raise self.unsupported(
                f"shapes [batch, {', '.join(map(str, first))}] and [batch, {', '.join(map(str, second))}] "
                "broadcast the batch dimension of one against another dimension of the other"
            )
        shape = tuple(torch.broadcast_shapes(first, second))
        return self.expanded(a, shape), self.expanded(b, shape)

    def with_constant(self, kind: type[Multiply | Divide | Shift], var: _Var, value: Any) -> _Var:
        constant = self.constant(value, len(self.shape(var)) + 1)
        if isinstance(constant, Tensor):
            var = self.expanded(var, tuple(torch.broadcast_shapes(self.shape(var), constant.shape)))
        return self.emit(kind(constant), var)

    def scaled(self, value: Any, factor: Any) -> Any:
        """factor * value of a node or a constant; unchanged where the factor is 1."""
        if not isinstance(factor, Tensor) and factor == 1:
            return value
        if isinstance(value, _Var):
            return self.with_constant(Multiply, value, factor)
        self.rounded = True
        return value * factor

    def sum(self, a: Any, b: Any) -> _Var:
        if isinstance(a, _Var) and isinstance(b, _Var):
            return self.emit(Add(), *self.broadcast(a, b))
        return self.with_constant(Shift, a, b) if isinstance(a, _Var) else self.with_constant(Shift, b, a)

    def difference(self, a: Any, b: Any) -> _Var:
        if isinstance(a, _Var) and isinstance(b, _Var):
            return self.emit(Subtract(), *self.broadcast(a, b))
        if isinstance(a, _Var):
            return self.with_constant(Shift, a, -b)
        return self.with_constant(Shift, self.scaled(b, -1.0), a)

    def as_node(self, value: Any, like: _Var, shape: Shape) -> _Var:
        """A node that is constant: a shift of zero times some entry of `like`."""
        zero = self.emit(Multiply(0.0), self.gathered(like, torch.zeros(shape, dtype=torch.int64)))
        return self.with_constant(Shift, zero, value)

    def same_precision(self, a: Args) -> None:
        if a.get("dtype") not in (None, self.dtype):
            raise self.unsupported(f"it changes the precision from {self.dtype} to {a['dtype']}")


def _name(target: Any) -> str:
    """The ATen operator's name without overload and without the mark of working in place."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.name.startswith("aten::"):
        return ""
    name = str(schema.name).removeprefix("aten::")
    return name.removesuffix("_") if schema.is_mutable else name


def _depends(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_depends(v) for v in value)
    return isinstance(value, _Var)


def _bound(target: Any, args: tuple[Any, ...], kwargs: Args) -> Args:
    """Arguments by the names of the operator's schema, defaults filled in."""
    bound: Args = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(args):
            bound[argument.name] = args[i]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return bound


def _handles(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def _constants_only(w: _Walker, a: Args, *names: str) -> None:
    if any(isinstance(a.get(n), _Var) for n in names):
        raise w.unsupported(f"{' and '.join(names)} must not depend on the input: not linear")


def _ints(value: Any, count: int) -> tuple[int, ...]:
    """One int or a list of them, as `count` ints."""
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * count if len(values) == 1 else values


# --- linear algebra --------------------------------------------------------------------------------------------------


@_handles("linear")
def _linear(w: _Walker, a: Args) -> _Var:
    _constants_only(w, a, "weight", "bias")
    _needs_rank(w, a["input"], 2)
    return w.emit(Linear(a["weight"], a["bias"]), a["input"])


@_handles("matmul", "mm", "mv", "bmm", "dot")
def _matmul(w: _Walker, a: Args) -> _Var:
    x, y = (a[n] for n in list(a)[:2])
    if isinstance(x, _Var) and isinstance(y, _Var):
        raise w.unsupported("a product of two nodes is not linear")
    if isinstance(x, _Var):
        _needs_rank(w, x, 2)
        if y.dim() > 2:
            raise w.unsupported(f"a product with a constant of shape {list(y.shape)}, not a matrix or vector")
        if y.dim() == 1:
            column = w.emit(Linear(y.unsqueeze(0)), x)
            return w.emit(Reshape(w.shape(column)[:-1]), column)
        return w.emit(Linear(y.t()), x)
    shape = w.shape(y)
    if len(shape) < 2 or x.dim() != 2:
        raise w.mixes() if len(shape) < 2 else w.unsupported("the constant on the left must be a matrix")
    order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    return w.emit(Permute(order), w.emit(Linear(x), w.emit(Permute(order), y)))


@_handles("addmm")
def _addmm(w: _Walker, a: Args) -> _Var:
    if not isinstance(a["mat1"], _Var):
        if _depends((a["mat2"],)):
            raise w.mixes()
        return w.sum(w.scaled(a["self"], a["beta"]), a["mat1"] @ a["mat2"] * a["alpha"])
    _constants_only(w, a, "mat2")
    own = a["self"]
    plain = a["alpha"] == 1 and a["beta"] == 1 and isinstance(own, Tensor)
    if plain and own.dim() == 1 and len(own) == a["mat2"].shape[1]:
        return w.emit(Linear(a["mat2"].t(), own), a["mat1"])
    product = w.scaled(w.emit(Linear(a["mat2"].t()), a["mat1"]), a["alpha"])
    return w.sum(product, w.scaled(own, a["beta"]))


def _needs_rank(w: _Walker, var: Any, least: int, exact: int | None = None) -> None:
    """The operand has at least `least` (or exactly `exact`) dimensions with the batch."""
    if not isinstance(var, _Var):
        raise w.unsupported("its input is constant and its weights depend on the model's input")
    rank = len(w.shape(var)) + 1
    if rank < least or (exact is not None and rank != exact):
        raise w.mixes()


def _convolution(w: _Walker, a: Args, spatial: int) -> _Var:
    _constants_only(w, a, "weight", "bias")
    x = a["input"]
    _needs_rank(w, x, spatial + 2, spatial + 2)
    stride, dilation = _ints(a["stride"], spatial), _ints(a["dilation"], spatial)
    padding = a["padding"]
    if padding == "valid":
        padding = 0
    elif padding == "same":
        sides = same_padding(a["weight"].shape[2:], dilation)
        if any(before != after for before, after in sides):
            x = w.emit(Pad([n for side in reversed(sides) for n in side]), x)
            padding = 0
        else:
            padding = [before for before, _ in sides]
    kind = Conv1d if spatial == 1 else Conv2d
    return w.emit(kind(a["weight"], a["bias"], stride, _ints(padding, spatial), dilation, a["groups"]), x)


def _transposed(w: _Walker, a: Args, spatial: int) -> _Var:
    _constants_only(w, a, "weight", "bias")
    _needs_rank(w, a["input"], spatial + 2, spatial + 2)
    stride, padding, beyond, dilation = (
        _ints(a[n], spatial) for n in ("stride", "padding", "output_padding", "dilation")
    )
    kind = ConvTranspose1d if spatial == 1 else ConvTranspose2d
    return w.emit(kind(a["weight"], a["bias"], stride, padding, beyond, dilation, a["groups"]), a["input"])


_handles("conv1d")(lambda w, a: _convolution(w, a, 1))
_handles("conv2d")(lambda w, a: _convolution(w, a, 2))
_handles("conv_transpose1d")(lambda w, a: _transposed(w, a, 1))
_handles("conv_transpose2d")(lambda w, a: _transposed(w, a, 2))


@_handles("convolution")
def _any_convolution(w: _Walker, a: Args) -> _Var:
    _constants_only(w, a, "weight", "bias")
    spatial = a["weight"].dim() - 2
    if spatial not in (1, 2):
        raise w.unsupported(f"a convolution over {spatial} dimensions; one and two are supported")
    return _transposed(w, a, spatial) if a["transposed"] else _convolution(w, a, spatial)


@_handles(
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "native_batch_norm",
    "_native_batch_norm_legit_functional",
)
def _batch_norm(w: _Walker, a: Args) -> Any:
    if a.get("training"):
        raise w.training()
    if a.get("running_mean") is None or a.get("running_var") is None:
        raise w.unsupported("batch normalisation without running statistics mixes the batch, also at inference")
    _constants_only(w, a, "weight", "bias")
    _needs_rank(w, a["input"], 2)
    op = BatchNorm(a["weight"], a["bias"], a["running_mean"], a["running_var"], a["eps"])
    var = w.emit(op, a["input"])
    return var if _name(w.node.target) == "batch_norm" else (var, None, None)


@_handles("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def _dropout(w: _Walker, a: Args) -> Any:
    if a["train"] and a["p"] > 0:
        raise w.training()
    return (a["input"], None) if _name(w.node.target) == "native_dropout" else a["input"]


@_handles("sym_size")
def _size(w: _Walker, a: Args) -> int:
    return (w.batch, *w.shape(a["self"]))[a["dim"]]


@_handles("to", "_to_copy")
def _cast(w: _Walker, a: Args) -> _Var:
    other = a.get("other")
    if isinstance(other, Tensor):
        a = {**a, "dtype": other.dtype}
    w.same_precision(a)
    return a["self"]


# --- arithmetic ------------------------------------------------------------------------------------------------------


@_handles("add")
def _add(w: _Walker, a: Args) -> _Var:
    return w.sum(a["self"], w.scaled(a["other"], a.get("alpha", 1)))


@_handles("sub", "subtract")
def _sub(w: _Walker, a: Args) -> _Var:
    return w.difference(a["self"], w.scaled(a["other"], a.get("alpha", 1)))


@_handles("rsub")
def _rsub(w: _Walker, a: Args) -> _Var:
    return w.difference(a["other"], w.scaled(a["self"], a.get("alpha", 1)))


@_handles("neg", "negative")
def _neg(w: _Walker, a: Args) -> _Var:
    return w.emit(Multiply(-1.0), a["self"])


@_handles("mul", "multiply")
def _mul(w: _Walker, a: Args) -> _Var:
    x, y = a["self"], a["other"]
    if isinstance(x, _Var) and isinstance(y, _Var):
        raise w.unsupported("a product of two nodes is not linear")
    return w.with_constant(Multiply, x, y) if isinstance(x, _Var) else w.with_constant(Multiply, y, x)


@_handles("div", "divide", "true_divide")
def _div(w: _Walker, a: Args) -> _Var:
    x, y = a["self"], a["other"]
    if isinstance(y, _Var):
        raise w.unsupported("the divisor depends on the input")
    if a.get("rounding_mode") is not None:
        raise w.unsupported("division that rounds is not continuous")
    if bool(torch.as_tensor(y == 0).any()):
        raise ModelError(str(w.unsupported("it divides by zero")))
    return w.with_constant(Divide, x, y)


@_handles("sum", "mean")
def _reduce(w: _Walker, a: Args) -> _Var:
    w.same_precision(a)
    dims = w.dims(a.get("dim"), len(w.shape(a["self"])) + 1)
    return w.emit(Reduce(dims, a["keepdim"], _name(w.node.target) == "mean"), a["self"])


def _larger(w: _Walker, x: Any, y: Any) -> _Var:
    """max(x, y) = y + ReLU(x - y)."""
    if isinstance(x, _Var) and isinstance(y, _Var):
        x, y = w.broadcast(x, y)
    return w.sum(w.emit(ReLU(), w.difference(x, y)), y)


@_handles("maximum")
def _maximum(w: _Walker, a: Args) -> _Var:
    return _larger(w, a["self"], a["other"])


@_handles("minimum")
def _minimum(w: _Walker, a: Args) -> _Var:
    """min(x, y) = x - ReLU(x - y)."""
    x, y = a["self"], a["other"]
    if isinstance(x, _Var) and isinstance(y, _Var):
        x, y = w.broadcast(x, y)
    return w.difference(x, w.emit(ReLU(), w.difference(x, y)))


@_handles("max", "amax", "min", "amin")
def _extremum(w: _Walker, a: Args) -> Any:
    """Over dimensions by the tree of a max pool; the minimum as minus the maximum of the negative."""
    name = _name(w.node.target)
    largest = name in ("max", "amax")
    if "other" in a:
        return (_maximum if largest else _minimum)(w, a)
    x = a["self"]
    shape = w.shape(x)
    dims = w.dims(a.get("dim"), len(shape) + 1)
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
    kept = [1 if d in dims else n for d, n in enumerate(shape)]
    rest = [d for d in range(len(shape)) if d not in dims]
    index = numbers.permute(*dims, *rest).reshape(-1, *(shape[d] for d in rest))
    result = w.maximum(x if largest else w.scaled(x, -1.0), index)
    if a["keepdim"]:
        result = w.emit(Reshape(kept), result)
    if not largest:
        result = w.scaled(result, -1.0)
    return result if name.startswith("a") else (result, None)


# --- joining and padding ---------------------------------------------------------------------------------------------


@_handles("cat", "concat", "concatenate")
def _cat(w: _Walker, a: Args) -> _Var:
    like = next(t for t in a["tensors"] if isinstance(t, _Var))
    shape = w.shape(like)
    (dim,) = w.dims(a["dim"], len(shape) + 1)
    parts = []
    for part in a["tensors"]:
        if not isinstance(part, _Var):
            if part.dim() != len(shape) + 1 or len(part) != w.batch:
                raise w.mixes()
            part = w.as_node(part, like, tuple(part.shape[1:]))
        parts.append(part)
    return w.emit(Concat(dim), *parts)


@_handles("stack")
def _stack(w: _Walker, a: Args) -> _Var:
    like = next(t for t in a["tensors"] if isinstance(t, _Var))
    shape = w.shape(like)
    (dim,) = w.dims(a["dim"], len(shape) + 2)
    wide = (*shape[:dim], 1, *shape[dim:])
    parts = [t if isinstance(t, _Var) else w.as_node(t, like, shape) for t in a["tensors"]]
    return w.emit(Concat(dim), *(w.emit(Reshape(wide), p) for p in parts))


@_handles("constant_pad_nd", "pad")
def _pad(w: _Walker, a: Args) -> _Var:
    mode = a.get("mode", "constant")
    if mode != "constant":
        shape = w.shape(a["self"])
        size = int(torch.Size(shape).numel())
        numbers = torch.arange(w.batch * size, dtype=torch.float64).reshape(w.batch, *shape)
        return w._followed(a["self"], F.pad(numbers, a["pad"], mode=mode), size)
    if len(a["pad"]) > 2 * len(w.shape(a["self"])):
        raise w.mixes()
    value = a["value"] or 0.0
    if not abs(value) < float("inf"):
        raise w.unsupported(f"padding with {value}")
    return w.emit(Pad(a["pad"], value), a["self"])


# --- pooling ---------------------------------------------------------------------------------------------------------


def _average(w: _Walker, a: Args, spatial: int) -> _Var:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    kernel = _ints(a["kernel_size"], spatial)
    stride = _ints(a["stride"], spatial) if a["stride"] else kernel
    settings = (a["ceil_mode"], a["count_include_pad"], a.get("divisor_override"))
    return w.emit(AveragePool(kernel, stride, _ints(a["padding"], spatial), *settings), a["self"])


def _adaptive_average(w: _Walker, a: Args, spatial: int) -> _Var:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    sizes, outputs = w.shape(a["self"])[1:], _ints(a["output_size"], spatial)
    if any(n % m for n, m in zip(sizes, outputs, strict=True)):
        return w.emit(AdaptiveAveragePool(outputs), a["self"])
    return w.emit(AveragePool(tuple(n // m for n, m in zip(sizes, outputs, strict=True))), a["self"])


def _maximum_pool(w: _Walker, a: Args, spatial: int) -> Any:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    shape = w.shape(a["self"])
    kernel = _ints(a["kernel_size"], spatial)
    stride = _ints(a["stride"], spatial) if a["stride"] else kernel
    padding, dilation = _ints(a["padding"], spatial), _ints(a["dilation"], spatial)
    settings = zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    try:
        axes = [window_taps(*s, ceil_mode=a["ceil_mode"]) for s in settings]
    except UnsupportedError as error:
        raise w.unsupported(str(error)) from error
    result = w.maximum(a["self"], pool_index(shape, axes))
    return (result, None) if _name(w.node.target).endswith("indices") else result


def _adaptive_maximum(w: _Walker, a: Args, spatial: int) -> Any:
    _needs_rank(w, a["self"], spatial + 2, spatial + 2)
    shape = w.shape(a["self"])
    outputs = _ints(a["output_size"], spatial)
    axes = [adaptive_taps(n, m) for n, m in zip(shape[1:], outputs, strict=True)]
    return w.maximum(a["self"], pool_index(shape, axes)), None


_handles("avg_pool1d")(lambda w, a: _average(w, a, 1))
_handles("avg_pool2d")(lambda w, a: _average(w, a, 2))
_handles("adaptive_avg_pool1d")(lambda w, a: _adaptive_average(w, a, 1))
_handles("adaptive_avg_pool2d", "_adaptive_avg_pool2d")(lambda w, a: _adaptive_average(w, a, 2))
_handles("max_pool1d", "max_pool1d_with_indices")(lambda w, a: _maximum_pool(w, a, 1))
_handles("max_pool2d", "max_pool2d_with_indices")(lambda w, a: _maximum_pool(w, a, 2))
_handles("adaptive_max_pool1d")(lambda w, a: _adaptive_maximum(w, a, 1))
_handles("adaptive_max_pool2d")(lambda w, a: _adaptive_maximum(w, a, 2))


# --- activations -----------------------------------------------------------------------------------------------------


_handles("relu")(lambda w, a: w.emit(ReLU(), a["self"]))
_handles("leaky_relu")(lambda w, a: w.emit(LeakyReLU(a["negative_slope"]), a["self"]))
_handles("abs", "absolute")(lambda w, a: w.emit(Abs(), a["self"]))
_handles("sigmoid")(lambda w, a: w.emit(Sigmoid(), a["self"]))
_handles("tanh")(lambda w, a: w.emit(Tanh(), a["self"]))


@_handles("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max", "clip")
def _clip(w: _Walker, a: Args) -> _Var:
    name = _name(w.node.target)
    low: float | None = 0.0
    high: float | None = 6.0
    if name != "relu6":
        low, high = (_limit(w, a.get(f"{side}_val", a.get(side))) for side in ("min", "max"))
    if low is None and high is None:
        return a["self"]
    if low is not None and high is not None and low > high:
        raise w.unsupported(f"its limits {low} and {high} are in the wrong order")
    return w.emit(ReLU() if (low, high) == (0.0, None) else Clip(low, high), a["self"])


def _limit(w: _Walker, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
        value = value.item()
    if isinstance(value, Tensor | _Var):
        raise w.unsupported("its limits must be numbers")
    if value != value:
        raise w.unsupported("a limit is NaN")
    return None if abs(value) == float("inf") else float(value)


# --- comparison ------------------------------------------------------------------------------------------------------


def _compare(graph: Graph, runner: ModelRunner, example: Tensor, rounded: bool) -> None:
    """Refuse a graph that does not compute what the model computes."""
    wide = graph.to(dtype=torch.float64)
    inputs = _probes(example)
    try:
        runner.run(inputs[0], torch.float64)
        precise = True
    except ModelError:
        precise = False  # a model that fixes its precision: then its own precision is all there is to compare
    for x in inputs:
        if precise:
            _agree(wide, runner, x, torch.float64, 1e-4 if rounded else 1e-9)
        _agree(graph, runner, x, None, 1e-4 if example.dtype == torch.float32 else 1e-9)


def _probes(example: Tensor) -> list[Tensor]:
    """The example, and random inputs of several scales, in batches of three and of one."""
    generator = torch.Generator().manual_seed(0)
    shape = tuple(example.shape[1:])
    normal = torch.randn(4, 3, *shape, generator=generator, dtype=torch.float64).to(example)
    unit = torch.rand(3, *shape, generator=generator, dtype=torch.float64).to(example)
    own = example.detach()[:3]
    return [own, unit, normal[0], normal[1] * 10, normal[2] * 0.1, normal[3, :1]]


def _agree(graph: Graph, runner: ModelRunner, x: Tensor, dtype: torch.dtype | None, tolerance: float) -> None:
    theirs = runner.run(x, dtype)
    with torch.no_grad():
        values = graph.values(x if dtype is None else x.to(dtype))
    ours = values[-1].flatten(1) if values[-1].dim() > 1 else values[-1].unsqueeze(1)
    where = f"on a batch of shape {list(x.shape)} in {ours.dtype}"
    if ours.shape != theirs.shape:
        raise ModelError(f"graph and model disagree {where}: {list(ours.shape)} and {list(theirs.shape)} outputs")
    if not theirs.isfinite().all():
        raise ModelError(f"the model's outputs are not finite {where}")
    gap = float((ours.to(theirs) - theirs).abs().max())
    inner = max(float(v.abs().max()) for v in values if v.numel())
    allowed = tolerance * (float(theirs.abs().max()) + 1e-2 * inner)
    if not gap <= allowed:
        raise ModelError(
            f"graph and model disagree {where}: outputs differ by {gap:.3g}, {allowed:.3g} is allowed. Does the model "
            "depend on the batch size, on random numbers or on global state?"
        )
