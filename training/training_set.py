"""What a run is given: images and labels, checked, and which of them are held out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from properties.device import sent
from training.randomness import stream
from verifier.certification.dataset import Dataset, TorchData, check_clip, check_labels, dataset
from verifier.certification.loaders import is_torch_data, read_for_training
from verifier.errors import InputError

#: what can be trained on
Data = Dataset | tuple[Any, Any] | TorchData


def training_set(data: Data) -> Dataset:
    """Images and labels, checked; see `train`. Raises InputError."""
    if isinstance(data, Dataset):
        return data
    if is_torch_data(data):
        return dataset(*read_for_training(data))
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputError(
            f"training data are (images, labels), or a torch Dataset or DataLoader of them; got a {type(data).__name__}"
        )
    return dataset(*data)


def check_examples(examples: Dataset, model: nn.Module, classes: int, clip: tuple[float, float] | None) -> None:
    """Raises InputError where a model cannot be trained, or measured, on some examples within a valid range."""
    check_dtype(examples, model)
    check_labels(examples.labels, classes)
    if not all(bool(part.isfinite().all()) for part in examples.images.split(4096)):
        raise InputError("the images hold NaN or infinite values: remove those images")
    if clip is not None:
        _check_range(examples.images, clip)


def held_out_of(count: int, asked: int | None) -> int:
    """How many of `count` images choose the best epoch: as many as asked for, by default a tenth, at most 1000.

    Raises:
        InputError: none would be left to train on.
    """
    held = min(1000, count // 10) if asked is None else asked
    if not 0 <= held < count:
        raise InputError(f"{held} images cannot be held out of {count}: none would be left to train on")
    return held


class Split:
    """Images and labels of a run, on its device, by their parts.

    Args:
        data: the training set.
        held: images to choose the best epoch by; None: `count` of the training set, drawn from `seed`.
    """

    def __init__(self, data: Dataset, held: Dataset | None, count: int | None, seed: int, device: torch.device) -> None:
        self.images, self.labels = data.images.to(device), data.labels.to(device)  # no copy of those that are used
        if held is not None:
            self.used = torch.arange(len(data))  #: numbers of the images that are trained on, [n]
            self.validation: tuple[Tensor, Tensor] = held.images.to(device), held.labels.to(device)
            return
        first = held_out_of(len(data), count)
        order = torch.randperm(len(data), generator=stream(seed, "split"))
        out, self.used = order[:first].sort().values, order[first:].sort().values
        self.validation = data.images[out].to(device), data.labels[out].to(device)

    def batches(self, order: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:  # [n] -> [b] each
        """Which images each step of an epoch takes, on the device: places of `used` in an order, so many at a time."""
        return sent(self.used[order], self.labels.device).split(sizes)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:  # [b] on the device -> [b, *input], [b]
        """The images and labels of these numbers."""
        return self.images[index], self.labels[index]

    @property
    def measured(self) -> bool:
        """Whether there are images to choose the best epoch by."""
        return len(self.validation[1]) > 0

    @property
    def classes(self) -> tuple[Tensor, Tensor]:  # -> [n], [m]
        """Labels of the images that are trained on, and of those that are held out."""
        return self.labels[self.used], self.validation[1]

    @property
    def asked(self) -> tuple[Tensor, Tensor]:
        """The held-out images and labels, or all, where none are held out."""
        return self.validation if self.measured else (self.images, self.labels)


def check_dtype(data: Dataset, model: nn.Module) -> None:
    """Raises InputError where images and weights are of different precision."""
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), data.images.dtype)
    if weights != data.images.dtype:
        raise InputError(
            f"the images are {str(data.images.dtype).removeprefix('torch.')} and the model's weights "
            f"{str(weights).removeprefix('torch.')}: convert the images"
        )


def _check_range(images: Tensor, clip: tuple[float, float]) -> None:  # [N, *input]
    """Raises InputError where an image is not in the valid range: there is no set around it."""
    check_clip(images, clip)
    parts = images.flatten(1).split(4096)  # a large set is not there a second time
    outside = torch.cat([((part < clip[0]) | (part > clip[1])).any(1) for part in parts])
    if bool(outside.any()):
        raise InputError(
            f"{int(outside.sum())} images have values outside the valid range [{clip[0]}, {clip[1]}], the "
            f"first at index {int(outside.nonzero()[0])}: clamp them, or give clip in the units of the images, or none"
        )
