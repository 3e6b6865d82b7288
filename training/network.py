"""A module under training, and the graph that its bounds are computed on: one set of weights."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from training.modes import evaluated
from verifier.errors import ModelError
from verifier.graph import Graph
from verifier.graph.torch_import import import_torch


class NetworkInTraining:
    """The model, and its graph.

    Args:
        model: a module that can be imported in eval mode (verifier.graph.torch_import).
        example: [B, *input], B >= 1.

    Raises:
        ModelError, UnsupportedError, InputError: the model cannot be imported.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.example = model, example[:1].detach().clone()
        self._imported = self._import()
        self.dtype, self.classes = example.dtype, int(torch.Size(self._imported.output_shape).numel())

    @property
    def device(self) -> torch.device:
        return self.example.device

    @cached_property
    def graph(self) -> Graph:
        """The graph of live tensors: gradients of bounds reach the model's own parameters.

        Raises:
            ModelError: the graph would soon be of another function than the one that is trained.
        """
        if self._stale:
            raise ModelError(f"bounds of this model cannot be trained on: {self._stale}")
        return self._imported

    def measured(self) -> Graph:
        """The graph of the model as it is now, in eval mode."""
        return self._import() if self._stale else self._imported

    def __call__(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        """The model's outputs, in the mode that it is in."""
        return self.model(x).flatten(1)

    @cached_property
    def _stale(self) -> str:
        """Why the imported graph does not follow the weights; empty where it does."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                return f"module {name!r} normalises over the batch in training, and otherwise when it is verified"
        own = {id(p) for p in self.model.parameters()}
        for node in self._imported.nodes[1:]:
            assert node.op is not None
            for name, tensor in node.op.parameters():
                if tensor.requires_grad and id(tensor) not in own:
                    return f"{name} of {node} is computed from other weights on each call"
        return ""

    def _import(self) -> Graph:
        with evaluated(self.model):
            return import_torch(self.model, self.example)
