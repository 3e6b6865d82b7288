"""What `attack` needs of a model: its outputs, and gradients that mean something. It needs no relaxation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from properties import InputSet, Specification
from verifier.api import Verifier
from verifier.arithmetic import precise_arithmetic
from verifier.attacks.problem import AttackProblem
from verifier.errors import ModelError, UnsupportedError
from verifier.graph.runner import ModelRunner
from verifier.graph.torch_import import check_module
from verifier.query import Query

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from verifier.graph.runner import ImportedModel

#: share of its length by which a gradient may differ from another and be taken for the same
_SAME = 1e-2


class AttackTarget(ABC):
    """A model as attacks see it."""

    output_shape: tuple[int, ...]  #: of the outputs of one example
    classes: int  #: number of outputs

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """The model's outputs [B, classes] at x [B, *input], in its own precision."""

    @abstractmethod
    def replay(self, x: Tensor) -> Tensor:
        """The same in float64, also where the model fixes its own precision."""

    @abstractmethod
    def problem(self, inputs: InputSet, spec: Specification) -> AttackProblem:
        """What an attack is asked about B sets."""


def attack_target(model: nn.Module | ExportedProgram | ImportedModel | AttackTarget, example: Tensor) -> AttackTarget:
    """A model made ready for attacks.

    By its graph where it has one: attacks may look inside, and a last softmax is left out. As a module that is run as
    it is, where it cannot be imported, or where its own gradients are others than the graph's: a straight-through
    estimator has no gradient that a graph of its values would know of.

    Args:
        model: as of `attack`; what is ready already stays as it is.
        example: [B, *input], for the input's shape and precision.

    Raises:
        InputError, ModelError, UnsupportedError: the model cannot be run, or not differentiated.
    """
    if isinstance(model, AttackTarget):
        return model
    if not isinstance(model, nn.Module):
        return GraphTarget(Verifier(model, example, stages=["attack"]))
    check_module(model, example)
    try:
        found = GraphTarget(Verifier(model, example, stages=["attack"]))
    except UnsupportedError:
        return ModuleTarget(model, example)
    return found if found.has_gradients_of(model, example) else ModuleTarget(model, example)


class GraphTarget(AttackTarget):
    """A model that was imported.

    Args:
        verifier: of the model.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.output_shape, self.classes = verifier.output_shape, verifier.classes

    def predict(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        return self.verifier.predict(x)

    def replay(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        return self.verifier.replay(x)

    def problem(self, inputs: InputSet, spec: Specification) -> AttackProblem:
        device = self.verifier.device
        return AttackProblem.of(Query.of(self.verifier.graph, inputs.to(device), spec.to(device)))

    def has_gradients_of(self, model: nn.Module, example: Tensor) -> bool:  # [B, *input]
        """Whether the graph's gradient at the example is the model's; the sum of squared outputs is differentiated."""
        x, graph = example[:1].to(self.verifier.device), self.verifier.graph
        try:
            own = _gradient(lambda z: called(model, z), x)
        except (RuntimeError, ModelError):  # it cannot be differentiated itself
            return True
        ours = _gradient(graph.forward, x)
        return bool((own - ours).norm() <= _SAME * torch.maximum(own.norm(), ours.norm()))


class ModuleTarget(AttackTarget):
    """A module that is run and differentiated as it is.

    Args:
        model: in eval mode.
        example: [B, *input], any valid input: its shape and precision.

    Raises:
        ModelError: it does not run, or cannot be differentiated.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.runner, self.example = model, ModelRunner(model), example[:1]
        tensors = (*model.parameters(), *model.buffers())
        self.device = tensors[0].device if tensors else example.device
        self.predict(self.example)  # what is wrong with it is said here
        try:
            _gradient(self.network, self.example.to(self.device))
        except RuntimeError as error:
            raise ModelError(f"no gradient reaches the model's input, and attacks follow gradients: {error}") from error
        self.output_shape = tuple(self.network(self.example.to(self.device)).shape[1:])
        self.classes = int(torch.Size(self.output_shape).numel())

    def network(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
        """The module's outputs, differentiable."""
        return called(self.model, x)

    def predict(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        with precise_arithmetic():
            return self.runner.run(x, dtype=None).flatten(1)

    def replay(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        if self._exact:
            return self.runner.run(x.double()).flatten(1)
        return self.predict(x.to(self.example.dtype)).double()

    @cached_property
    def _exact(self) -> bool:
        """Whether the model runs in float64."""
        try:
            self.runner.run(self.example.double())
        except ModelError:
            return False
        return True

    def problem(self, inputs: InputSet, spec: Specification) -> AttackProblem:
        return AttackProblem(self.network, inputs.to(self.device), spec.to(self.device), self.example.dtype)


def called(model: nn.Module, x: Tensor) -> Tensor:  # [B, *input] -> [B, *output]
    """A module's one output, with a dimension behind the batch's."""
    outputs = model(x)
    if isinstance(outputs, tuple | list) and len(outputs) == 1:
        outputs = outputs[0]
    if len(x) == 1 and (outputs.dim() == 0 or len(outputs) != 1):  # some models lose a batch dimension of 1
        return called(model, torch.cat([x, x]))[:1]
    return outputs if outputs.dim() > 1 else outputs.unsqueeze(1)


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # [1, *input] -> [1, *input]
    """Of the sum of squared outputs. Raises RuntimeError where there is none."""
    with torch.enable_grad(), precise_arithmetic():
        x = x.clone().requires_grad_()
        return torch.autograd.grad(function(x).square().sum(), x)[0]
