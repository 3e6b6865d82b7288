"""A list of small networks of the kinds that people bring, and the question that is asked of each.

A file of this package holds the builders of one kind. A builder makes a `torch.nn` module with the weights that the
seed of its name gives; `network` enters it in the list `NETWORKS`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from networks.radii import WIDE
from properties import Specification, linear


@dataclass(frozen=True)
class Network:
    """One network of the list.

    `builder` makes the module, `shape` is that of one input, `eps` the radius at which it must be decided, `refused`
    the mathematical reason for which a verifier may refuse it (empty: it may not), `kind` the file it is from, `values`
    whether a row of outputs is one of values, not of classes.
    """

    name: str
    builder: Callable[[], nn.Module]
    shape: tuple[int, ...]
    eps: float
    refused: str
    kind: str
    values: bool = False

    @property
    def wide(self) -> bool:
        """Whether the radius is one at which intervals alone do not decide."""
        return self.name in WIDE

    @property
    def seed(self) -> int:
        """The same for a name on every machine."""
        return zlib.crc32(self.name.encode()) % 2**31

    def model(self) -> nn.Module:
        """The module in eval mode. Its normalisations have statistics and gains of a network that was trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self.builder()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_(0.0, 0.3)
                    module.running_var.uniform_(0.5, 1.5)
                if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
                    nn.init.uniform_(module.weight, 0.7, 1.3)
        return model.eval()

    def x(self) -> Tensor:  # [1, *shape]
        """The centre of the set: an image in [0, 1], or else numbers in [-1, 1]."""
        x = torch.rand((1, *self.shape), generator=torch.Generator().manual_seed(self.seed + 1))
        return x if len(self.shape) == 3 else 2 * x - 1


NETWORKS: list[Network] = []


def network(
    name: str, shape: tuple[int, ...] = (12,), eps: float = 0.005, refused: str = "", values: bool = False
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Enters a builder in the list; arguments as those of `Network`, but for a radius that `WIDE` has instead."""

    def entered(builder: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert all(name != other.name for other in NETWORKS), name
        kind = builder.__module__.rpartition(".")[2]
        NETWORKS.append(Network(name, builder, shape, WIDE.get(name, eps), refused, kind, values))
        return builder

    return entered


@cache
def question(one: Network) -> Specification | None:
    """What is asked of a network: None, the class stays, where the output is a row of classes.

    Else the first, the middle and the last output stay above their values at x less a margin: twice what the gradient
    says that an input of the set can do (1.2 times, where a row is one of values), and 0.001 where that says nothing.
    """
    point = one.x().requires_grad_()
    y = one.model()(point)
    if y.dim() == 2 and y.shape[1] >= 2 and not one.values:
        return None
    flat = y.flatten()
    rows, offset, times = [], [], 1.2 if one.values else 2.0
    for place in sorted({0, flat.numel() // 2, flat.numel() - 1}):
        (slope,) = torch.autograd.grad(flat[place], point, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.eye(flat.numel(), dtype=torch.float64)[place])
        offset.append(times * one.eps * float(slope.abs().sum()) + 0.001 - float(flat[place].detach()))
    return linear(torch.stack(rows), torch.tensor(offset, dtype=torch.float64), strict=False)
