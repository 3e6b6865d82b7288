"""Batch normalisation in a step of training: statistics of the clean batch, in whatever passes the step consists of.

The convention of certified training. One pass of the clean images, in train mode, finds the mean and the variance of
every layer and moves the running averages, once; bounds, and outputs at attacked points, are then those of the network
with these statistics. It is how Shi et al. (2021) train by auto_LiRPA (operators/normalization.py, mode "forward"),
and what CTBench (Mao et al. 2025) does for all of its methods. (auto_LiRPA bounds with the statistics of the last
pass. In the program of De Palma et al. (2024) that is the pass of the attacked points, and both move the averages.) As
there, gradients flow through the statistics: the normalised layer does not change when weights before it are scaled,
and a gradient that took the statistics for constants would say that it does. In eval mode, so when a network is
attacked, measured or verified, the running averages take their place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.modes import modes_kept
from verifier.errors import InputError, ModelError
from verifier.graph import Graph
from verifier.ops.norm import BatchNorm

#: mean and variance [C] per call of a module, by the module
Statistics = Mapping[_BatchNorm, Sequence[tuple[Tensor, Tensor]]]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The modules that normalise by the batch's statistics in training, and by running averages otherwise."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def batch_sizes(count: int, batch: int, least: int) -> list[int]:
    """How many of `count` examples each step of an epoch takes: `batch`, and the last one what is left.

    Args:
        least: how many a step needs; two, where statistics are taken from them. The last ones join the step before.

    Raises:
        InputError: there are not as many, or `batch` is less.
    """
    if min(count, batch) < least:
        raise InputError(
            f"batch norm takes its statistics from the images of a step, which needs {least} of them: there are "
            f"{count} to train on, in batches of {batch}"
        )
    sizes = [batch] * (count // batch)
    left = count % batch
    if left >= least or (left and not sizes):
        return [*sizes, left]
    return [*sizes[:-1], sizes[-1] + left] if left else sizes


@contextmanager
def statistics_kept(
    model: nn.Module, clean_pass: Callable[[], Tensor], frozen: Collection[_BatchNorm] = ()
) -> Iterator[tuple[Tensor, Statistics]]:
    """Inside, modules in train mode normalise by what they found in one pass, and leave their averages alone.

    Args:
        model: in train mode; in eval mode nothing is changed.
        clean_pass: calls the model with the clean batch; run first, it moves the running averages.
        frozen: modules that stay with their running averages, which do not move.

    Yields:
        What the pass returned, and what the modules found in it.
    """
    with ExitStack() as stack:
        stack.enter_context(modes_kept(model))
        for module in frozen:
            module.eval()
        layers = [_Layer(module) for module in batch_norms(model) if module.training]
        for layer in layers:
            stack.enter_context(layer.installed())
        outputs = clean_pass()
        for layer in layers:
            layer.recording = False
        yield outputs, {layer.module: layer.found for layer in layers}


def with_statistics(graph: Graph, statistics: Statistics) -> Graph:
    """The graph whose nodes of batch norm have other statistics than the running averages of their modules.

    Raises:
        ModelError: a module is called in another number of places than in the pass that found them.
    """
    left = {id(module.running_mean): list(found) for module, found in statistics.items() if found}
    nodes = list(graph.nodes)
    for i, node in enumerate(nodes):
        if not isinstance(node.op, BatchNorm) or id(node.op.mean) not in left:
            continue
        found = left[id(node.op.mean)]
        if not found:
            raise ModelError(
                f"{node} is called less often in training than in eval mode: its bounds have no statistics"
            )
        nodes[i] = replace(node, op=node.op.normalised_by(*found.pop(0)))
    if any(left.values()):
        raise ModelError("a module of batch norm is called more often in training than in eval mode")
    return replace(graph, nodes=tuple(nodes))


class _Layer:
    """A module of batch norm, whose statistics are those of the recorded pass. It may be called many times in it."""

    def __init__(self, module: _BatchNorm) -> None:
        self.module, self.calls, self.recording = module, 0, True
        self.found: list[tuple[Tensor, Tensor]] = []
        self.own: Callable[[Tensor], Tensor] = module.forward

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, this is what the module does."""
        attributes = vars(self.module)
        before = attributes.get("forward")
        attributes["forward"] = self.forward
        try:
            yield
        finally:
            del attributes["forward"]
            if before is not None:
                attributes["forward"] = before

    def forward(self, x: Tensor) -> Tensor:  # [B, C, ...] -> [B, C, ...]
        if not self.module.training:  # as an attack calls it
            return self.own(x)
        if self.recording:
            var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
            self.found.append((mean, var))
            return self.own(x)
        if not self.found:
            raise ModelError("a module of batch norm that the clean batch did not pass has no statistics for others")
        mean, var = self.found[self.calls % len(self.found)]
        self.calls += 1
        return BatchNorm(self.module.weight, self.module.bias, mean, var, self.module.eps).apply(x)
