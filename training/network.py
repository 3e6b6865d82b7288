"""A module under training, and the graph that its bounds are computed on: one set of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from training.batch_norm import Statistics, batch_norms, statistics_kept, with_statistics
from training.modes import evaluated
from training.passes import Passes
from verifier.graph import Graph
from verifier.graph.torch_import import Traced
from verifier.ops.norm import BatchNorm


class NetworkInTraining:
    """The model, and its graph.

    The model is traced once. Where its weights are computed from others (weight norm), or its constants from buffers,
    the graph is made again from the trace.

    Args:
        model: a module that can be imported in eval mode (verifier.graph.torch_import).
        example: [B, *input], B >= 1.
        passes: how the module is called at points; bounds and measurements do not ask.

    Raises:
        ModelError, UnsupportedError, InputError: the model cannot be imported.
    """

    def __init__(self, model: nn.Module, example: Tensor, passes: Passes | None = None) -> None:
        self.model, self.example = model, example[:1].detach().clone()
        with evaluated(model):
            self._traced = Traced.of(model, self.example)
            self._imported = self._traced.compared(model)
        self._own, self._made_of = self._tensors(), self._versions
        self.dtype, self.classes = example.dtype, int(torch.Size(self._imported.output_shape).numel())
        self._step: _Step | None = None
        self._called = (passes or Passes()).through(model, self.example)

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def graph(self) -> Graph:
        """The graph of live tensors: gradients of bounds reach the model's own parameters.

        Inside `on_batch` it has that batch's statistics, elsewhere the running averages, as in eval mode.
        """
        return self._now() if self._step is None else self._step.graph

    def measured(self) -> Graph:
        """The graph of the model as it is now, in eval mode. No gradients reach weights that are computed."""
        with torch.no_grad():
            return self._now()

    def __call__(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        """The model's outputs, in the mode that it is in."""
        if self._step is not None and self._step.outputs is not None and x is self._step.x:
            return self._step.outputs
        return self._called(x).flatten(1)

    @contextmanager
    def on_batch(self, x: Tensor, frozen: int = 0) -> Iterator[None]:
        """Inside, all that is computed is of one function: the network in train mode on a clean batch x [B, *input].

        Its batch norm has the statistics of this batch, in the outputs at other points and in `graph` alike, and moves
        its running averages once (training.batch_norm). Networks that are the same in both modes are not called.

        Args:
            frozen: a node; batch norm that leads to it has its running averages, which do not move.
        """
        assert self._step is None, "one batch after another"
        try:
            if not self._acts_in_training or not self.model.training:
                self._step = _Step(self, x)
                yield
                return
            # of the module itself: bounds have its statistics
            clean = partial(self._own_outputs, x)
            with statistics_kept(self.model, clean, self._before(frozen)) as (outputs, statistics):
                self._step = _Step(self, x, outputs, statistics)
                yield
        finally:
            self._step = None

    def _own_outputs(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        return self.model(x).flatten(1)

    @cached_property
    def _acts_in_training(self) -> bool:
        """Whether a pass in train mode computes something that bounds need."""
        parts = [*self.model.modules(), *(h for m in self.model.modules() for h in m._forward_pre_hooks.values())]
        return bool(batch_norms(self.model)) or any(isinstance(p, _SpectralNorm | SpectralNorm) for p in parts)

    def _before(self, node: int) -> list[nn.modules.batchnorm._BatchNorm]:
        """Modules of batch norm that are called on the way to a node, and nowhere else."""
        places: dict[int, list[int]] = {}
        for i, found in enumerate(self._imported.nodes):
            if isinstance(found.op, BatchNorm):
                places.setdefault(id(found.op.mean), []).append(i)
        above = self._imported.ancestors[node]
        return [m for m in batch_norms(self.model) if set(places.get(id(m.running_mean), [-1])) <= above]

    # --- the graph as it is now

    def _now(self) -> Graph:
        own = self._tensors()
        if len(own) != len(self._own) or any(a is not b for a, b in zip(own, self._own, strict=True)):
            # a buffer is another tensor after `self.scale = ...`: the trace stays, what it is of does not
            self._own, self._traced = own, self._traced.followed(self.model)
            self.__dict__.pop("_sources", None)
            self._imported, self._made_of = self._traced.graph(), self._versions
        if self._computes_weights:
            return self._traced.graph()
        if self._made_of != self._versions:
            self._imported, self._made_of = self._traced.graph(), self._versions
        return self._imported

    @cached_property
    def _derived(self) -> list[Tensor]:  # [...] each
        """Tensors of the graph that are not the model's own, but were computed from them."""
        own = {id(t) for t in self._traced.tensors.values()}
        tensors = (t for node in self._imported.nodes[1:] if node.op is not None for _, t in node.op.parameters())
        return [t for t in tensors if id(t) not in own]

    @cached_property
    def _computes_weights(self) -> bool:
        """Whether gradients go through something that is computed: only once through each result."""
        return any(t.requires_grad for t in self._derived)

    @cached_property
    def _sources(self) -> list[Tensor]:  # [...] each
        """What derived tensors without gradients may come from; batch norm's averages are read as they are."""
        if not self._derived:
            return []
        read = {id(t) for m in batch_norms(self.model) for t in m.buffers(recurse=False)}
        return [t for t in self._traced.tensors.values() if not t.requires_grad and id(t) not in read]

    @property
    def _versions(self) -> list[tuple[int, int]]:
        return [(t._version, t.data_ptr()) for t in self._sources]

    def _tensors(self) -> list[Tensor]:  # [...] each
        """The model's own, as it holds them now."""
        return [*self.model.parameters(), *self.model.buffers()]


class _Step:
    """What a network is on one clean batch: x [B, *input], and where they were found its outputs and statistics."""

    def __init__(
        self, network: NetworkInTraining, x: Tensor, outputs: Tensor | None = None, statistics: Statistics | None = None
    ) -> None:
        self.network, self.x, self.outputs, self.statistics = network, x, outputs, statistics or {}

    @cached_property
    def graph(self) -> Graph:
        with torch.enable_grad():  # whoever asks first
            return with_statistics(self.network._now(), self.statistics)
