"""Architectures of the papers, as factories: `small()` is a network for MNIST, `small((3, 32, 32))` for CIFAR-10.

Weights are drawn by torch's defaults from its global generator: seed it for networks that can be drawn again. Every
factory takes the input's shape first and then the number of outputs, both with defaults, so that
`verifier certify --model training.architectures:small --weights FILE` works as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from verifier.normalisation import Normalise as Normalise  # beside what it goes in front of
from verifier.registry import hint, unknown

Shape = tuple[int, ...]

MNIST: Shape = (1, 28, 28)


class Residual(nn.Module):
    """relu(skip(x) + second(relu(first(x)))): a block of Wong et al.'s residual network.

    Where it downsamples, the first convolution is 4x4 and the skip 2x2, both with stride 2.
    """

    def __init__(self, channels: int, filters: int, downsample: bool = False) -> None:
        super().__init__()
        size, stride = (4, 2) if downsample else (3, 1)
        self.first = nn.Conv2d(channels, filters, size, stride, padding=1)
        self.second = nn.Conv2d(filters, filters, 3, padding=1)
        self.skip = nn.Conv2d(channels, filters, stride, stride)

    def forward(self, x: Tensor) -> Tensor:  # [B, channels, H, W] -> [B, filters, ...]
        return torch.relu(self.skip(x) + self.second(torch.relu(self.first(x))))


def small(input_shape: Shape = MNIST, classes: int = 10) -> nn.Sequential:
    """Two 4x4 convolutions of stride 2 with 16 and 32 filters, 100 units (Wong & Kolter 2018; Tjeng et al. 2019)."""
    return _strided(input_shape, classes, 16, 32, 100)


def wide(input_shape: Shape = MNIST, classes: int = 10, k: int = 1) -> nn.Sequential:
    """As `small` with 4k and 8k filters and 128k units (Wong et al. 2018, appendix G)."""
    return _strided(input_shape, classes, 4 * k, 8 * k, 128 * k)


def colt(input_shape: Shape = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """As `small` with 32 and 128 filters and 150 units (Balunovic & Vechev 2020, section 7)."""
    return _strided(input_shape, classes, 32, 128, 150)


def deep(input_shape: Shape = MNIST, classes: int = 10, k: int = 1) -> nn.Sequential:
    """k convolutions of 8 filters, then k of 16, the last of each with stride 2 (Wong et al. 2018, appendix G).

    The paper names no more; the 100 units behind them are those of `small`.
    """
    layers, channels = [], input_shape[0]
    for filters in (8, 16):
        layers += _group(channels, filters, k)
        channels = filters
    return _headed(layers, input_shape, (100,), classes)


def large(input_shape: Shape = MNIST, classes: int = 10) -> nn.Sequential:
    """Four convolutions of 32, 32, 64 and 64 filters, the second and fourth with stride 2, then 512 and 512 units.

    Wong et al. (2018), section 4.
    """
    return _headed([*_group(input_shape[0], 32, 2), *_group(32, 64, 2)], input_shape, (512, 512), classes)


def resnet(input_shape: Shape = MNIST, classes: int = 10) -> nn.Sequential:
    """A convolution of 16 filters, residual blocks of 16, 16, 32, 64, then 1000 units (Wong et al. 2018, section 4)."""
    layers = [
        nn.Conv2d(input_shape[0], 16, 3, padding=1), nn.ReLU(), Residual(16, 16), Residual(16, 16),
        Residual(16, 32, downsample=True), Residual(32, 64, downsample=True),
    ]  # fmt: skip
    return _headed(layers, input_shape, (1000,), classes)


def two_layer(input_shape: Shape = MNIST, classes: int = 10, hidden: int = 500) -> nn.Sequential:
    """One hidden layer (Raghunathan et al. 2018: 784-500-10)."""
    return _headed([], input_shape, (hidden,), classes)


def toy(input_shape: Shape = (2,), classes: int = 2) -> nn.Sequential:
    """Four hidden layers of 100 units on the plane (Wong 2020, section 3.2)."""
    return _headed([], input_shape, (100,) * 4, classes)


def cnn_7layer_bn(input_shape: Shape = (3, 32, 32), classes: int = 10, width: int = 64) -> nn.Sequential:
    """Five 3x3 convolutions, `width` filters twice and 2 `width` thrice, the third with stride 2; then 8 `width` units.

    Batch norm behind every layer but the last. CNN7 of Shi et al. (2021), as CTBench (Mao et al. 2025, networks.py) has
    it, with batch norm behind the units too; there the width is 64, and the units 512. Widths of 8 and 16 suit a CPU.
    """
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for filters, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1)):
        layers += [nn.Conv2d(channels, filters, 3, stride, padding=1), nn.BatchNorm2d(filters), nn.ReLU()]
        channels = filters
    head = _headed(layers, input_shape, (8 * width,), classes)
    head.insert(len(head) - 2, nn.BatchNorm1d(8 * width))
    return head


#: factories by the name that users give them
ARCHITECTURES: dict[str, Callable[..., nn.Sequential]] = {
    f.__name__: f for f in (small, wide, colt, deep, large, resnet, cnn_7layer_bn, two_layer, toy)
}


def architecture(text: str, input_shape: Shape, classes: int) -> nn.Sequential:
    """A network by name, with the number that it takes after a colon: "small", "wide:4", "two_layer:500".

    Raises:
        ValueError: no such architecture, a number where none is taken, or inputs of a shape that it does not take.
    """
    name, colon, number = text.partition(":")
    if name not in ARCHITECTURES:
        known = sorted(ARCHITECTURES)
        raise ValueError(unknown("architecture", name, known) + hint(name, known))
    factory = ARCHITECTURES[name]
    extra = list(inspect.signature(factory).parameters)[2:]
    options = {}
    if colon:
        if not extra or not number.isdigit() or int(number) < 1:
            takes = f"{extra[0]}, an integer >= 1" if extra else "no number"
            raise ValueError(f"architecture {name!r} takes {takes}; got {number!r}")
        options[extra[0]] = int(number)
    try:
        return factory(tuple(input_shape), classes, **options)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"architecture {name!r} does not fit inputs of shape {list(input_shape)} "
            f"(convolutions take [channels, height, width]): {error}"
        ) from error


def _group(channels: int, filters: int, count: int) -> list[nn.Module]:
    """`count` convolutions with ReLU: 3x3, the last one 4x4 with stride 2."""
    layers: list[nn.Module] = []
    for i in range(count):
        size, stride = (4, 2) if i == count - 1 else (3, 1)
        layers += [nn.Conv2d(channels if i == 0 else filters, filters, size, stride, padding=1), nn.ReLU()]
    return layers


def _strided(input_shape: Shape, classes: int, first: int, second: int, units: int) -> nn.Sequential:
    layers = [*_group(input_shape[0], first, 1), *_group(first, second, 1)]
    return _headed(layers, input_shape, (units,), classes)


def _headed(layers: Sequence[nn.Module], input_shape: Shape, hidden: Sequence[int], classes: int) -> nn.Sequential:
    """The layers, then fully connected ones with ReLU between them."""
    body = nn.Sequential(*layers, nn.Flatten()).eval()  # zeros are nothing for running averages
    with torch.no_grad():
        width = int(body(torch.zeros(1, *input_shape)).shape[1])
    body.train()
    head: list[nn.Module] = []
    for units in hidden:
        head += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*body, *head, nn.Linear(width, classes))
