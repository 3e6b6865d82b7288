"""A perceptron for every activation function of torch.nn, and for some that are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.base import network


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def perceptron(activation: Callable[[], nn.Module], *widths: int) -> nn.Sequential:
    """Linear layers of these widths with the activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


MODULES: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU, "ReLU6": nn.ReLU6, "LeakyReLU": nn.LeakyReLU, "PReLU": nn.PReLU, "RReLU": nn.RReLU,
    "ELU": nn.ELU, "CELU": nn.CELU, "SELU": nn.SELU, "GELU": nn.GELU, "GELU by tanh": lambda: nn.GELU("tanh"),
    "SiLU": nn.SiLU, "Mish": nn.Mish, "Hardswish": nn.Hardswish, "Hardsigmoid": nn.Hardsigmoid,
    "Hardtanh": nn.Hardtanh, "Softplus": nn.Softplus, "Softsign": nn.Softsign, "Tanhshrink": nn.Tanhshrink,
    "Softshrink": nn.Softshrink, "LogSigmoid": nn.LogSigmoid, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh,
    "Threshold": lambda: nn.Threshold(0.0, 0.0), "GLU": lambda: nn.Sequential(nn.Linear(8, 16), nn.GLU()),
    "softmax": lambda: nn.Softmax(1), "softmin": lambda: nn.Softmin(1),
    "square": lambda: Function(torch.square), "sine": lambda: Function(torch.sin),
    "squared ReLU": lambda: Function(lambda x: F.relu(x) ** 2), "absolute": lambda: Function(torch.abs),
    "Gaussian": lambda: Function(lambda x: torch.exp(-x * x)), "atan": lambda: Function(torch.atan),
    "erf": lambda: Function(torch.erf), "Snake": lambda: Function(lambda x: x + torch.sin(x) ** 2),
    "Hardshrink": nn.Hardshrink,
}  # fmt: skip

for name, activation in MODULES.items():
    network(f"perceptron, {name}")(lambda activation=activation: perceptron(activation, 12, 8, 8, 3))
