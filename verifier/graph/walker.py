"""The walk over a traced ATen graph: every operator becomes a node, a constant, or an error that says where.

Whatever does not depend on the input is computed on the spot, with gradients; the rest becomes nodes whose operators
hold the model's own tensors. Moving of entries (reshape, slice, flip, ...) is not interpreted operator by operator: the
operator itself runs on a tensor of entry numbers, and where the numbers went says what it did, and whether it mixed
examples of the batch. What each other operator means is in `verifier.graph.aten`.
"""

from __future__ import annotations

import operator
import textwrap
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from verifier.errors import ModelError, UnsupportedError
from verifier.graph.emitter import Var
from verifier.graph.ir import Graph
from verifier.graph.layout import Laid
from verifier.graph.lifting import lifted, needs_lifting
from verifier.graph.placing import Placing
from verifier.graph.runner import CHECKS, static_batch, user_input
from verifier.ops.handlers import ATEN as HANDLERS
from verifier.ops.handlers import Args
from verifier.ops.shape import Permute, Reshape

# fmt: off
#: operators that only move entries about: run on entry numbers (see the module's docstring)
_MOVES = frozenset((
    "_unsafe_view", "alias", "channel_shuffle", "chunk", "clone", "contiguous", "detach", "diagonal", "expand",
    "expand_as", "flatten", "flip", "gather", "index", "index_select", "lift_fresh_copy", "mT", "movedim", "moveaxis",
    "narrow", "numpy_T", "permute", "pixel_shuffle", "pixel_unshuffle", "positive",
    "reflection_pad1d", "reflection_pad2d",
    "repeat", "repeat_interleave", "replication_pad1d", "replication_pad2d", "reshape", "reshape_as", "roll", "select",
    "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "tensor_split", "tile", "transpose",
    "unbind", "unflatten", "unfold", "unsqueeze", "upsample_nearest1d", "upsample_nearest2d", "view", "view_as",
))
#: operators that read only the shape of their input
_SHAPE_ONLY = frozenset(("fill", "full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zero", "zeros_like"))
#: operators that read conditions or whole numbers as they are; all others are given floating-point numbers
_COUNTING = _MOVES | _SHAPE_ONLY | {
    "__and__", "__or__", "__xor__", "_to_copy", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor",
    "cat", "copy", "div", "eq", "ge", "greater", "greater_equal", "gt", "le", "less", "less_equal", "logical_and",
    "logical_not", "logical_or", "logical_xor", "lt", "masked_fill", "mul", "ne", "neg", "not_equal", "rsub", "stack",
    "sub", "sum", "to", "type_as", "where",
}
#: operators that make constants without rounding
_EXACT = _MOVES | _SHAPE_ONLY | {
    "_to_copy", "abs", "arange", "cat", "eye", "full", "neg", "ones", "scalar_tensor", "stack", "to", "zeros",
}
# fmt: on


def supported_operators() -> list[str]:
    """Names of the ATen operators that a traced model may use on its input."""
    return sorted(_MOVES | _SHAPE_ONLY | set(HANDLERS))


def _supported_list() -> str:
    text = f"Supported: {', '.join(supported_operators())}."
    return textwrap.fill(text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


class Walker(Placing):
    """Turns the nodes of a traced program into graph nodes, one after another.

    Args:
        tensors: [...] each, by the names of the placeholders that stand for them. example: [B, *input].
    """

    def __init__(self, program: ExportedProgram, tensors: dict[str, Tensor], example: Tensor) -> None:
        inputs = user_input(program)
        if len(inputs) != 1:
            raise UnsupportedError(f"the model takes {len(inputs)} input tensors; one is needed")
        super().__init__(tuple(example.shape[1:]), example.dtype)
        self.program, self.tensors = program, tensors
        self.batch = static_batch(program) or 2
        self.values: dict[torch.fx.Node, Any] = {}
        self.mixed = False  #: what is computed from conditions or whole numbers has torch's default precision
        self.node: torch.fx.Node = inputs[0]

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
            return Var(0) if node in user_input(self.program) else None
        tensor = self.tensors[node.name]
        if node.users and isinstance(tensor, Tensor) and tensor.is_floating_point() and not _is_usable(tensor):
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
        returned: Any = node.args[0]
        kept = [n for spec, n in zip(specs, returned, strict=True) if spec.kind.name == "USER_OUTPUT"]
        outputs = [self._resolve(n) for n in kept]
        if len(outputs) != 1:
            raise UnsupportedError(f"the model returns {len(outputs)} values; a single output tensor is needed")
        if not isinstance(outputs[0], Var | Laid):
            raise UnsupportedError("the model's output does not depend on its input")
        output = outputs[0]
        if not dtype_of(kept[0]).is_floating_point:
            raise UnsupportedError(f"the model's output is of {dtype_of(kept[0])}: cast it to floating point")
        if isinstance(output, Laid):
            raise self.mixes()
        if not self.shape(output):  # one number per example: a vector of length one
            output = self.emit(Reshape((1,)), output)
        self.builder.rounded, self.builder.computed = self.rounded, self.computed
        return self.builder.build(output.index)

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self.values[value]
        if isinstance(value, list | tuple):
            return type(value)(self._resolve(v) for v in value)
        return value

    def _call(self, node: torch.fx.Node) -> Any:
        name = name_of(node.target)
        target: Any = node.target
        if name in CHECKS:
            return None
        args = self._resolve(tuple(node.args))
        kwargs = {k: self._resolve(v) for k, v in node.kwargs.items()}
        if target is operator.getitem:
            return args[0][args[1]]
        if not depends(args) and not depends(tuple(kwargs.values())):
            return self._fold(name, args, kwargs)
        self._check_numbers(name)
        if name in _SHAPE_ONLY:
            kind = dtype_of(node.all_input_nodes[0])
            like = torch.zeros(self.traced_shape(args[0]), dtype=self.dtype if kind.is_floating_point else kind)
            return target(like, *args[1:], **kwargs)
        if name in _MOVES:
            return self._move(name, args, kwargs)
        if name not in HANDLERS:
            raise self.unsupported("it is not among the supported operators", list_all=True)
        bound = _bound(target, args, kwargs)
        if needs_lifting(self, target, name, bound):
            return lifted(self, target, name, bound)
        return HANDLERS[name](self, bound)

    def _check_numbers(self, name: str) -> None:
        """Refuses what computes otherwise with conditions or whole numbers than with floating-point numbers."""
        kinds = [dtype_of(n) for n in self.node.all_input_nodes if depends(self.values[n])]
        if all(kind.is_floating_point for kind in kinds):
            return
        if name not in _COUNTING:
            raise self.unsupported("it computes with conditions or whole numbers: cast them to floating point first")
        if name == "add" and dtype_of(self.node) == torch.bool:
            raise self.unsupported("it adds conditions: use `|`, or cast them to numbers first")
        if dtype_of(self.node).is_floating_point:
            self.mixed = True

    def _fold(self, name: str, args: tuple[Any, ...], kwargs: Args) -> Any:
        try:
            result = self.node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise self.unsupported(f"it cannot be computed ahead: {error}") from error
        floats = isinstance(result, Tensor) and result.is_floating_point() and result.dtype != torch.float64
        if floats and name not in _EXACT:
            self.computed = True
        return result

    # --- messages

    @property
    def label(self) -> str:
        return self.node.name

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
        message = " ".join(parts)
        return UnsupportedError(f"{message}\n{_supported_list()}" if list_all else message)

    def training(self) -> ModelError:
        return ModelError(f"{self.unsupported('it behaves as in training')} Call model.eval(), and export it so.")

    # --- building

    def dims(self, given: Any, rank: int) -> list[int]:
        """Batch-free dimensions, from those of a tensor of `rank` dimensions with the batch."""
        given = [given] if isinstance(given, int) else list(given or ())
        dims = [d % rank for d in given]
        if not dims or 0 in dims:
            raise self.mixes()
        return [d - 1 for d in dims]

    def _move(self, name: str, args: tuple[Any, ...], kwargs: Args) -> Any:
        value = args[0]
        if not isinstance(value, Var | Laid):
            raise self.unsupported("it selects entries of a constant by the input's values")
        if kwargs.get("dtype") not in (None, self.dtype):
            raise self.unsupported("it changes the precision")
        order = self._order(name, args, self.rank(value)) if isinstance(value, Var) else None
        if order is not None:
            assert isinstance(value, Var)
            return value if order == list(range(len(order))) else self.emit(Permute(order), value)
        rest = [self._beside(a) for a in args[1:]]
        kwargs = {k: v for k, v in kwargs.items() if k != "dtype"}
        moved = self.ran(self.numbers(value), *rest, **kwargs)
        node = value if isinstance(value, Var) else value.var
        if isinstance(moved, list | tuple):
            return tuple(self.followed(node, m) for m in moved)
        return self.followed(node, moved)

    def _beside(self, value: Any) -> Any:
        """An argument that goes along with entry numbers: of a node only the shape counts."""
        if isinstance(value, list | tuple):
            return type(value)(self._beside(v) for v in value)
        if isinstance(value, Var | Laid):
            return torch.zeros(self.traced_shape(value))
        return value.cpu() if isinstance(value, Tensor) else value

    def _order(self, name: str, args: tuple[Any, ...], rank: int) -> list[int] | None:
        """Batch-free order of dimensions where the operator is a plain permutation that leaves the batch in front."""
        if name == "permute":
            order = [d % rank for d in args[1]]
        elif name in ("transpose", "swapaxes", "swapdims", "mT"):
            order = list(range(rank))
            i, j = (args[1] % rank, args[2] % rank) if len(args) > 2 else (rank - 2, rank - 1)
            order[i], order[j] = j, i
        else:
            return None
        return [d - 1 for d in order[1:]] if order[0] == 0 else None

    # --- constants and broadcasting

    def constant(self, value: Any, rank: int) -> Tensor | float:
        """A constant operand [*shape] without its batch dimension; `rank` is the other operand's, the batch counted."""
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

    def broadcast(self, a: Var, b: Var) -> tuple[Var, Var]:
        """Both nodes in their common shape."""
        first, second = self.shape(a), self.shape(b)
        if len(first) != len(second):
            raise self.unsupported(
                f"shapes [batch, {', '.join(map(str, first))}] and [batch, {', '.join(map(str, second))}] "
                "broadcast the batch dimension of one against another dimension of the other"
            )
        return super().broadcast(a, b)

    def same_precision(self, a: Args) -> None:
        if a.get("dtype") not in (None, self.dtype):
            raise self.unsupported(f"it changes the precision from {self.dtype} to {a['dtype']}")


def _is_usable(tensor: Tensor) -> bool:  # [...]
    """Finite, or a mask of zeros and minus infinities, which what reads it takes care of."""
    return bool(tensor.isfinite().all()) or bool(((tensor == 0) | (tensor == -torch.inf)).all())


def name_of(target: Any) -> str:
    """The ATen operator's name without overload and without the mark of working in place."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.name.startswith("aten::"):
        return ""
    name = str(schema.name).removeprefix("aten::")
    return name.removesuffix("_") if schema.is_mutable else name


def dtype_of(node: torch.fx.Node) -> torch.dtype:
    """What a traced value is a tensor of; the default precision where it is no tensor."""
    value = node.meta.get("val")
    return value.dtype if isinstance(value, Tensor) else torch.get_default_dtype()


def depends(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(depends(v) for v in value)
    return isinstance(value, Var | Laid)


def _bound(target: Any, args: tuple[Any, ...], kwargs: Args) -> Args:
    """Arguments by the names of the operator's schema, defaults filled in."""
    bound: Args = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(args):
            bound[argument.name] = args[i]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return bound


def constants_only(w: Walker, a: Args, *names: str) -> None:
    if any(isinstance(a.get(n), Var) for n in names):
        raise w.unsupported(f"{' and '.join(names)} must not depend on the input: not linear")


def ints(value: Any, count: int) -> tuple[int, ...]:
    """One int or a list of them, as `count` ints."""
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * count if len(values) == 1 else values
