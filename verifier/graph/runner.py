"""The user's own model as a function, for replays: in its own precision or in another, batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from verifier.errors import ModelError
from verifier.graph.ir import Graph
from verifier.graph.tracing import running_modules

#: checks that torch.export leaves in a graph: true of the traced precision and batch, in the way of any other
CHECKS = frozenset({"_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"})


class Runner(Protocol):
    """The user's model as a function."""

    def run(self, x: Tensor, dtype: torch.dtype | None = torch.float64) -> Tensor:
        """Outputs at x [B, *input], flattened: [B, outputs], in precision `dtype` (None: the model's own)."""


@runtime_checkable
class ImportedModel(Runner, Protocol):
    """A model that brings its own graph, compared with what it runs (verifier.graph.onnx_model)."""

    @property
    def precision(self) -> torch.dtype:
        """Of its inputs."""

    def graph_for(self, example: Tensor) -> Graph:
        """Its graph, for inputs like this example [B, *input]. Raises InputError where the example does not fit."""


class ModelRunner:
    """Runs the original model, which stays untouched.

    A copy per precision is kept as long as the weights stay as they were.
    """

    def __init__(self, model: nn.Module | ExportedProgram) -> None:
        self.model = model
        self._copies: dict[torch.dtype, tuple[object, Callable[[Tensor], Any]]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_copies": {}}

    def run(self, x: Tensor, dtype: torch.dtype | None = torch.float64) -> Tensor:
        """Outputs at x [B, *input], flattened: [B, outputs], in precision `dtype` (None: the model's own).

        Raises:
            ModelError: the model raised, returned no single tensor with one row per input, or fixes its own precision.
        """
        with running_modules():
            return self._run(x, dtype)

    def _run(self, x: Tensor, dtype: torch.dtype | None) -> Tensor:  # [B, *input] -> [B, outputs]
        tensors = tensors_of(self.model)
        own = next((t.dtype for t in tensors.values() if t.is_floating_point()), x.dtype)
        x = at_home(self.model, x.detach()).to(own if dtype is None else dtype)
        with torch.no_grad():
            output = self._batched(self._function(dtype), x)
        if dtype is not None and output.dtype != dtype:  # its rounding errors would be taken for those of `dtype`
            raise ModelError(f"the model fixes its own precision: {output.dtype} came out where {dtype} was asked for")
        return output

    def _function(self, dtype: torch.dtype | None) -> Callable[[Tensor], Any]:  # [B, *input]
        if dtype is None:
            return self.model if isinstance(self.model, nn.Module) else _program(self.model, None)
        state = [(id(t), t._version) for t in tensors_of(self.model).values()]
        kept = self._copies.get(dtype)
        if kept is None or kept[0] != state:
            kept = state, self._converted(dtype)
            self._copies[dtype] = kept
        return kept[1]

    def _converted(self, dtype: torch.dtype) -> Callable[[Tensor], Any]:  # [B, *input]
        if not isinstance(self.model, nn.Module):
            return _program(self.model, dtype)
        try:
            double = copy.deepcopy(self.model).to(dtype)
        except Exception as error:
            raise ModelError(f"the model cannot be copied to {dtype}: {error}") from error
        for module in double.modules():  # tensors that are neither parameters nor buffers
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    vars(module)[name] = value.to(dtype)
        return double

    def _batched(self, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
        size = None if isinstance(self.model, nn.Module) else static_batch(self.model)
        if size is None:
            return self._once(function, x)
        parts = []
        for part in x.split(size):
            full = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            parts.append(self._once(function, full)[: len(part)])
        return torch.cat(parts)

    def _once(self, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
        try:
            return _called(function, x)
        except ModelError:
            if len(x) != 1 or not isinstance(self.model, nn.Module):
                raise
        # some models lose a batch dimension of 1, by squeeze() for instance: two copies of the example do not
        return _called(function, torch.cat([x, x]))[:1]


def tensors_of(model: nn.Module | ExportedProgram) -> dict[str, Tensor]:  # [...] each
    """A model's parameters, buffers and constants by their names."""
    if isinstance(model, nn.Module):
        return {**dict(model.named_parameters()), **dict(model.named_buffers())}
    constants = {name: t for name, t in model.constants.items() if isinstance(t, Tensor)}
    return {**model.state_dict, **constants}


def at_home(model: nn.Module | ExportedProgram, x: Tensor) -> Tensor:  # [B, *input] -> [B, *input]
    """Inputs on the device of the model, which is where it runs; a model without tensors runs where its inputs are.

    Raises:
        ModelError: the model lives on several devices.
    """
    tensors = tensors_of(model)
    first = next(iter(tensors), None)
    if first is None:
        return x
    home = tensors[first].device
    for name, tensor in tensors.items():
        if tensor.device != home:
            raise ModelError(
                f"the model's {first} is on {home} and its {name} on {tensor.device}: move it as a whole, by "
                "model.to(device)"
            )
    return x.to(home)


def _called(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
    try:
        output = function(x.clone())  # the model may work in place
    except Exception as error:
        raise ModelError(f"the model failed on a batch of shape {list(x.shape)} in {x.dtype}: {error}") from error
    if isinstance(output, tuple | list) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ModelError(f"the model returned {type(output).__name__}; a single tensor is needed")
    if output.dim() == 0 or len(output) != len(x):
        raise ModelError(
            f"the model returned shape {list(output.shape)} for a batch of {len(x)}: dimension 0 must be the batch"
        )
    return output.flatten(1) if output.dim() > 1 else output.unsqueeze(1)


def user_input(program: ExportedProgram) -> list[torch.fx.Node]:
    """The placeholders of the tensors that the user passes in."""
    names = set(program.graph_signature.user_inputs)
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names and "val" in n.meta]


def static_batch(program: ExportedProgram) -> int | None:
    """The batch size that the program was exported for; None where any size may come."""
    size = user_input(program)[0].meta["val"].shape[0]
    return size if isinstance(size, int) else None


def lifted(program: ExportedProgram) -> dict[str, Tensor]:  # [...] each
    """The parameter, buffer or constant behind every placeholder that is not the user's input."""
    found: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.target is not None:
            source = program.state_dict if spec.target in program.state_dict else program.constants
            found[spec.arg.name] = source[spec.target]
    return found


def _program(program: ExportedProgram, dtype: torch.dtype | None) -> Callable[[Tensor], Any]:  # [B, *input]
    """The exported graph as a function, in another precision where asked.

    Its own module() would check the traced precision; here the graph is walked, its precisions exchanged.
    """
    own = user_input(program)[0].meta["val"].dtype
    target = dtype or own

    def converted(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().to(target, copy=True) if value.dtype == own else value.detach().clone()
        return target if value == own else value

    tensors = {name: converted(t) for name, t in lifted(program).items()}

    def function(x: Tensor) -> Any:  # [B, *input]
        from torch.fx.node import map_aggregate

        values: dict[torch.fx.Node, Any] = {}

        def resolved(value: Any) -> Any:
            return values[value] if isinstance(value, torch.fx.Node) else converted(value)

        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = tensors.get(node.name, x)
            elif node.op == "get_attr":
                values[node] = program.graph_module.get_submodule(node.target)
            elif node.op == "call_function" and getattr(node.target, "_opname", "") not in CHECKS:
                args, kwargs = map_aggregate(node.args, resolved), map_aggregate(node.kwargs, resolved)
                values[node] = node.target(*args, **kwargs)
            elif node.op == "output":
                return _user_outputs(program, map_aggregate(node.args[0], resolved))
        return None

    return function


def _user_outputs(program: ExportedProgram, outputs: Any) -> list[Any]:
    """Outputs proper, without the mutated buffers that an exported graph returns as well."""
    specs = program.graph_signature.output_specs
    return [value for spec, value in zip(specs, outputs, strict=True) if spec.kind.name == "USER_OUTPUT"]
