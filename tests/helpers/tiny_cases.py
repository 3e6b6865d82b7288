"""A tiny network, a box of inputs, and the exact minima of its margins there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from helpers.oracle import TinyNetwork, exact_minimum
from helpers.tiny_torch import TinyModule
from properties import Box


@dataclass(frozen=True)
class TinyCase:
    network: TinyNetwork
    model: TinyModule
    lower: np.ndarray
    upper: np.ndarray
    label: int
    exact: np.ndarray  # [2]: per other class, the minimum of logit[label] - logit[other]

    @classmethod
    def around(cls, network: TinyNetwork, model: TinyModule, generator: np.random.Generator) -> Self:
        """A network of three classes in a box around a random point, of a size at which both answers occur."""
        center = np.round(generator.normal(size=network.inputs) * 16) / 16
        radius = np.ldexp(1.0, -int(generator.integers(0, 6)))
        lower, upper = center - radius, center + radius
        label = int(network.forward(center).argmax())
        exact = [exact_minimum(network, np.eye(3)[label] - np.eye(3)[o], 0.0, lower, upper).value
                 for o in range(3) if o != label]  # fmt: skip
        return cls(network, model, lower, upper, label, np.array(exact))

    @property
    def inputs(self) -> Box:
        return Box(torch.from_numpy(self.lower)[None], torch.from_numpy(self.upper)[None])
