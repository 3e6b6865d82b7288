"""Normalisation as a part of the network: radii and valid ranges stay in the units of the images.

A file of weights names it in its metadata, so that loading puts it in front of the factory's module again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verifier.errors import InputError
from verifier.registry import hint

#: per channel mean and standard deviation of training sets whose images are in [0, 1]
KNOWN: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}
#: the metadata's key of a file of weights
METADATA = "normalise"


class Normalise(nn.Module):
    """(x - mean) / std per channel.

    Args:
        mean, std: one number per channel, or one for all.
        axes: of an input behind the channels: 2 of images [B, C, H, W], 0 of vectors [B, n].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], axes: int = 2) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or any(not 0 < s < float("inf") for s in std):
            raise ValueError(f"give one mean and one std > 0 per channel, got {list(mean)} and {list(std)}")
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values)).reshape(-1, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, ...] -> [B, C, ...]
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"{self.mean.flatten().tolist()}, {self.std.flatten().tolist()}"


class Normalised(nn.Module):
    """A network behind its normalisation.

    Args:
        name: as it is given to `normalised`; files of weights keep it.
    """

    def __init__(self, normalise: Normalise, network: nn.Module, name: str) -> None:
        super().__init__()
        self.normalise, self.network, self.name = normalise, network, name

    def forward(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, classes]
        output: Tensor = self.network(self.normalise(x))
        return output


def normalised(network: nn.Module, text: str, shape: Sequence[int]) -> Normalised:
    """The network with a normalisation in front, in the precision of its weights.

    Args:
        text: a name of KNOWN, or MEAN/STD, each one number or one per channel, such as 0.5,0.5,0.5/0.25,0.25,0.25.
        shape: of one input, its channels first.

    Raises:
        InputError: no such name, no such numbers, as many as the input has no channels, or a network that has a
            normalisation already.
    """
    if isinstance(network, Normalised):
        raise InputError(f"the network is normalised by {network.name} already, as its weights say: leave it out here")
    mean, std = _parsed(text)
    if len(mean) not in (1, shape[0]):
        raise InputError(
            f"normalisation {text} is of {len(mean)} channels, and inputs {list(shape)} have {shape[0]} (first axis)"
        )
    try:
        layer = Normalise(mean, std, len(shape) - 1)
    except ValueError as error:
        raise InputError(f"normalisation {text}: {error}") from error
    made = Normalised(layer, network, text)
    kind = next((p for p in network.parameters() if p.is_floating_point()), None)
    return made if kind is None else made.to(kind.device, kind.dtype)


def metadata_of(network: nn.Module) -> dict[str, str] | None:
    """What the file of a network's weights must say of it beside them."""
    return {METADATA: network.name} if isinstance(network, Normalised) else None


def restored(network: nn.Module, metadata: Mapping[str, str] | None, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that some weights are of: with the normalisation in front that their file names.

    Args:
        network: as its factory makes it.
        metadata, weights: of the file.
    """
    mean = weights.get("normalise.mean")
    if metadata is None or METADATA not in metadata or isinstance(network, Normalised):
        return network
    if mean is None or mean.dim() == 0:  # none of ours: the keys do not fit, which is said where they are compared
        return network
    blank = [1.0] * len(mean)  # the file's numbers come with the weights
    layer = Normalise(blank, blank, mean.dim() - 1).to(mean.dtype)
    return Normalised(layer, network, metadata[METADATA]).train(network.training)


def _parsed(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if text in KNOWN:
        return KNOWN[text]
    mean, slash, std = text.partition("/")
    try:
        if slash:
            numbers = [tuple(float(number) for number in part.split(",")) for part in (mean, std)]
            return numbers[0], numbers[1]
    except ValueError:
        pass
    raise InputError(
        f"normalisation is one of {', '.join(sorted(KNOWN))}, or MEAN/STD such as 0.1307/0.3081, with commas between "
        f"channels; got {text!r}{hint(text, list(KNOWN))}"
    )
