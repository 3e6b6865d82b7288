"""PyTorch models to graphs, by torch.export."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import verifier.graph.aten  # registers what each operator becomes
import verifier.graph.aten_compositions
import verifier.graph.aten_conditions
import verifier.graph.aten_functions
import verifier.graph.aten_linear
import verifier.graph.aten_stairs  # noqa: F401
from properties.arguments import check_values
from verifier.errors import InputError, ModelError, UnsupportedError
from verifier.graph.agreement import compare
from verifier.graph.ir import Graph
from verifier.graph.runner import ModelRunner, at_home, lifted, user_input
from verifier.graph.tracing import importing, tracing
from verifier.graph.walker import Walker, supported_operators
from verifier.layout import advice, other_layout, permuted, runs

__all__ = ["Traced", "check_model", "first_line", "import_torch", "supported_operators"]


def import_torch(model: nn.Module | ExportedProgram, example: Tensor) -> Graph:
    """The model as a graph of live tensors, compared with the model before it is returned.

    Constants that the model computes from its weights on every call (a reparametrised weight, say) are computed once,
    here: gradients flow through them, but after a change of the weights the model has to be imported again.

    Args:
        example: [B, *input], for the input's shape and precision; its values serve for the comparison. It may be on
            another device than the model: it is moved there.

    Raises:
        InputError: the example is unusable, or the model itself fails on it.
        UnsupportedError: the model cannot be traced, or uses what has no relaxation here (says what, where).
        ModelError: not a model, training mode, weights that are not finite, or graph and model disagree.
    """
    check_model(model)
    if not isinstance(example, Tensor) or not example.is_floating_point():
        kind = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise InputError(f"the example must be a tensor of floating-point numbers, [batch, *input]; it is {kind}")
    if example.dim() < 1 or example.numel() == 0:
        raise InputError(f"the example must have shape [batch, *input] and hold an entry, not {list(example.shape)}")
    if example.dtype not in (torch.float32, torch.float64):
        raise InputError(f"models in float32 or float64 can be verified, not in {example.dtype}: convert with .float()")
    with importing():
        return Traced.of(model, example).compared(model)


@dataclass(frozen=True)
class Traced:
    """What a graph is made of: a traced program, and the tensors that its placeholders stand for.

    A graph that is made again after a change of the weights has what the model computes from them computed anew,
    without another trace.
    """

    program: ExportedProgram
    tensors: dict[str, Tensor]  #: [...] each; the module's own parameters and buffers where it is a module
    example: Tensor  # [B, *input]

    @classmethod
    def of(cls, model: nn.Module | ExportedProgram, example: Tensor) -> Traced:  # [B, *input]
        """Raises as `import_torch`."""
        with importing():
            example = at_home(model, example)
            if isinstance(model, nn.Module):
                check_module(model, example)
                program = _traced(model, example)
                return cls(program, _live(model, program), example)
            _check_program(model, example)
            program = _functional(model)
            return cls(program, lifted(program), example)

    def followed(self, model: nn.Module) -> Traced:
        """The same program on the tensors that the module, whose it is, holds now."""
        return replace(self, tensors=_live(model, self.program))

    def graph(self) -> Graph:
        """The graph of the tensors as they are now. Raises as `import_torch`."""
        return Walker(self.program, self.tensors, self.example).graph()

    def compared(self, model: nn.Module | ExportedProgram) -> Graph:
        """The graph, compared with the model. Raises as `import_torch`."""
        walker = Walker(self.program, self.tensors, self.example)
        graph = walker.graph()
        loosely = bool(walker.rounded) or walker.computed or walker.loose or walker.mixed
        compare(graph, ModelRunner(model), self.example, loosely)
        return graph


def check_model(model: object) -> None:
    """Raises ModelError where `model` is neither a module nor an exported program."""
    wanted = "pass a torch.nn.Module in eval mode, or the program that torch.export.export made of one"
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(f"the model is TorchScript, which cannot be traced: {wanted}")
    if not isinstance(model, nn.Module | ExportedProgram):
        raise ModelError(
            f"the model is of type {type(model).__name__}: {wanted} "
            "(torch.export.load or verifier.loading.load_model reads a .pt2 file)"
        )


def check_module(model: nn.Module, example: Tensor) -> None:  # [B, *input]
    """Raises where a module is none to look at: in training mode, of other precision than the example, not finite.

    Raises:
        ModelError, InputError; UnsupportedError where it takes several inputs.
    """
    different = nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU
    if model.training:
        raise ModelError("the model is in training mode: call model.eval() first")
    for name, module in model.named_modules():
        if module.training and isinstance(module, different):
            kind = type(module).__name__
            raise ModelError(f"submodule {name!r} ({kind}) is in training mode: call model.eval() first")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        try:
            check_values(tensor, f"the model's {name}")
        except ValueError as error:
            raise ModelError(str(error)) from None
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
            f"the model takes several inputs ({', '.join(required)}): give verify() a tuple of them, with a radius for "
            "each, eps=(0.1, 0.0), or wrap it in a module that fixes the others"
        )


def _traced(model: nn.Module, example: Tensor) -> ExportedProgram:  # [B, *input]
    """torch.export with a batch of two copies of the example."""
    batch = example[:1].detach().expand(2, *example.shape[1:]).clone()
    try:
        with tracing():
            program = torch.export.export(model, (batch,))
    except Exception as error:
        _check_runs(model, batch)
        raise UnsupportedError(
            f"torch.export cannot trace the model on a batch of shape {list(batch.shape)}: {type(error).__name__}: "
            f"{first_line(error)}\n"
            "The usual reason is control flow that depends on values, or a batch size written into the model."
        ) from error
    return _functional(program)


def _check_runs(model: nn.Module, batch: Tensor) -> None:  # [2, *input]
    """Raises InputError where the model fails without any tracing, mostly because of the layout of the images."""
    try:
        with torch.no_grad():
            model(batch)
    except Exception as error:
        shape = batch.shape[1:]
        layout = other_layout(shape, runs(model, batch))
        why = (
            advice(shape, layout)
            if layout
            else (
                "Images must be in the model's layout (for convolutions: channels first, [C, H, W]); "
                "the command line's --layout turns them, and --shape reshapes them."
            )
        )
        raise InputError(
            f"the model itself fails on an input of shape {list(shape)} per example: "
            f"{type(error).__name__}: {first_line(error)}\n{why}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The same program without operators that work in place."""
    targets = [n.target for n in program.graph.nodes if n.op == "call_function"]
    if not any(t._schema.is_mutable for t in targets if hasattr(t, "_schema")):
        return program
    try:
        with tracing():
            return program.run_decompositions({})
    except Exception as error:
        raise UnsupportedError(f"the model's in-place operations cannot be rewritten: {first_line(error)}") from error


def _live(model: nn.Module, program: ExportedProgram) -> dict[str, Tensor]:  # [...] each
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


def _turned(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What to say where an input has the axes that are wanted in another order; else nothing."""
    layout = other_layout(shape, lambda layout: permuted(shape, layout) == wanted)
    return f": {advice(shape, layout)}" if layout else ""


def _check_program(program: ExportedProgram, example: Tensor) -> None:  # [B, *input]
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
            f"the example is {example.dtype} of shape {list(example.shape)}{_turned(tuple(example.shape[1:]), shape)}"
        )
