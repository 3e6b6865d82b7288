"""Weights to start interval training from: intervals that neither grow nor shrink from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import nn

from verifier.errors import ModelError


def interval_initialisation(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all linear layers and convolutions anew, in place; biases become zero.

    An interval's radius grows by the factor fan_in E|w| in such a layer, and a ReLU around zero halves it on average.
    Normal weights of standard deviation sqrt(2 pi) / fan_in have E|w| = 2 / fan_in, so that radii stay the same,
    whatever the width; those that torch draws multiply them by about sqrt(fan_in) / 4 per layer. Shi et al. (2021),
    Fast certified robust training with short warmup: the IBP initialisation.

    Args:
        generator: on the CPU.

    Raises:
        ModelError: there is no such layer.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    if not layers:
        raise ModelError("the model has no linear layer and no convolution to initialise: leave `initialise` off")
    with torch.no_grad():
        for layer in layers:
            fan_in = layer.weight[0].numel()
            normal = torch.randn(layer.weight.shape, generator=generator, dtype=layer.weight.dtype)
            layer.weight.copy_(normal * (math.sqrt(2 * math.pi) / fan_in))
            if layer.bias is not None:
                layer.bias.zero_()
