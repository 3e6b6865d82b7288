"""Weights to start interval training from: intervals that neither grow nor shrink from layer to layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from verifier.errors import ModelError


def interval_initialisation(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all linear layers and convolutions anew, in place; biases become zero.

    An interval's radius grows by the factor fan_in E|w| in such a layer, and a ReLU around zero halves it on average.
    Normal weights of standard deviation sqrt(2 pi) / fan_in have E|w| = 2 / fan_in, so that radii stay the same,
    whatever the width; those that torch draws multiply them by about sqrt(fan_in) / 4 per layer. Shi et al. (2021),
    Fast certified robust training with short warmup: the IBP initialisation.

    Weights that are computed from others, as by weight norm, come out as these; batch norm is left as it is.

    Args:
        generator: on the CPU.

    Raises:
        ModelError: there is no such layer, or its weight cannot be set.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if not layers:
        raise ModelError("the model has no linear layer and no convolution to initialise: leave `initialise` off")
    with torch.no_grad():
        for layer in layers:
            fan_in = layer.weight[0].numel()
            normal = torch.randn(layer.weight.shape, generator=generator, dtype=layer.weight.dtype)
            _set_weight(layer, (normal * (math.sqrt(2 * math.pi) / fan_in)).to(layer.weight.device))
            if layer.bias is not None:
                layer.bias.zero_()


def _set_weight(layer: Any, weight: Tensor) -> None:  # [*as the layer's]
    """A layer's weight, also where it is computed from other parameters on every call."""
    for name in ("weight", "weight_orig"):  # the latter: the older spectral norm, pruning
        own = layer._parameters.get(name)
        if own is not None:
            own.copy_(weight)
            return
    hook = next((h for h in layer._forward_pre_hooks.values() if isinstance(h, WeightNorm)), None)
    if hook is not None:  # torch.nn.utils.weight_norm, the older interface
        layer.weight_v.copy_(weight)
        layer.weight_g.copy_(torch.norm_except_dim(weight, 2, hook.dim))
        return
    try:
        layer.weight = weight
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise ModelError(
            "the weights of a layer are computed from others in a way that cannot be inverted: leave `initialise` off"
        ) from error
