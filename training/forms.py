"""Forms of a network that every training method has to train: layers that behave in training as they do not elsewhere.

For the conformance tests (training.testing), which put them into the example of each method.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def _layers(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def batch_normed(model: nn.Module) -> nn.Module:
    """With batch norm behind its first linear layer or convolution."""
    name, layer = _layers(model)[0]
    features = layer.weight.shape[0]
    norm = nn.BatchNorm2d(features) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(features)
    model.set_submodule(name, nn.Sequential(layer, norm.to(layer.weight)))
    return model


def weight_normed(model: nn.Module) -> nn.Module:
    """With weight norm in all linear layers and convolutions: each weight is computed from two parameters."""
    for _, layer in _layers(model):
        weight_norm(layer)
    return model


class Residual(nn.Module):
    """model(x) + linear(x): a linear path beside the whole of an example on inputs [1, 8, 8]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        last = _layers(model)[-1][1].weight
        self.model, self.linear = model, nn.Linear(64, last.shape[0], dtype=last.dtype)

    def forward(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        return self.model(x) + self.linear(x.flatten(1))


#: forms by what they are called in messages; both norms at once, for time (each alone has tests of its own)
FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "batch norm and weight norm": lambda model: batch_normed(weight_normed(model)),
    "a skip": Residual,
}
