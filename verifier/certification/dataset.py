"""A labelled test set: checked once, at the start of a run, and named by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from properties.arguments import check_values
from verifier.arguments import input_errors
from verifier.certification.loaders import is_torch_data, read
from verifier.errors import InputError

Images = Tensor | np.ndarray
Labels = Tensor | np.ndarray | Sequence[int]
TorchData = TorchDataset[Any] | DataLoader[Any]


@dataclass(frozen=True)
class Dataset:
    """N >= 1 labelled images, on the CPU."""

    images: Tensor  # [N, *input], floating point
    labels: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """sha256 over the images' dtype, shape and bytes, and the labels."""
        digest = hashlib.sha256(f"{self.images.dtype} {tuple(self.images.shape)}\n".encode())
        for chunk in self.images.split(1024):
            digest.update(chunk.contiguous().flatten().view(torch.uint8).numpy().data)
        digest.update(self.labels.contiguous().numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def digests(self) -> list[str]:
        """Of each example, sha256 over its image's dtype, shape and bytes, and its label."""
        kind = f"{self.images.dtype} {tuple(self.images.shape[1:])}\n".encode()
        found = []
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            digest = hashlib.sha256(kind)
            digest.update(image.contiguous().flatten().view(torch.uint8).numpy().data)
            digest.update(label.to_bytes(8, "little", signed=True))
            found.append(digest.hexdigest())
        return found

    def example_input(self) -> Tensor:  # [1, *input]
        """The first image without NaN and infinities (which become rows, not failures of set-up), else zeros."""
        for image in self.images:
            if bool(image.isfinite().all()):
                return image.unsqueeze(0)
        return torch.zeros_like(self.images[:1])


def dataset(images: Images | TorchData, labels: Labels | None) -> Dataset:
    """Checks and converts a test set.

    Args:
        images: [N, *input], floating point, in the units that the model sees at its input; or a torch Dataset or
            DataLoader of images and labels.
        labels: [N] integers; None where the images bring them.

    Raises:
        InputError: no data, lengths that differ, images of integers, labels that are not integers.
    """
    if is_torch_data(images):
        if labels is not None:
            raise InputError(f"a {type(images).__name__} has labels of its own: leave labels out")
        images, labels = read(images)
    elif labels is None:
        raise InputError("images need labels, [N] integers; a torch Dataset or DataLoader brings its own")
    assert not isinstance(images, TorchDataset | DataLoader) and labels is not None
    x, y = _tensor(images, "images"), _tensor(labels, "labels")
    if x.dim() < 2:
        raise InputError(f"images must be [N, *input], with the examples along the first axis; got {list(x.shape)}")
    if y.dim() != 1:
        raise InputError(f"labels must be [N], one integer per image; got shape {list(y.shape)}")
    if len(x) != len(y):
        raise InputError(f"there are {len(x)} images but {len(y)} labels")
    if x.numel() == 0:
        raise InputError(f"there is nothing to certify: images have shape {list(x.shape)}")
    if not x.is_floating_point():
        raise InputError(
            f"images are {_name(x.dtype)}, and a network takes floating point: scale them as in training, "
            "for example images / 255, and give eps and clip in those units"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype is torch.bool:
        raise InputError(f"labels must be integers, got {_name(y.dtype)}")
    return Dataset(x, y.long())


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises InputError where a label [N] is not one of 0 .. classes - 1."""
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        at = int(bad.nonzero()[0])
        raise InputError(
            f"label {int(labels[at])} at index {at} is out of range: the network has {classes} classes, "
            f"0 to {classes - 1} ({int(bad.sum())} labels are)"
        )


def check_clip(images: Tensor, clip: tuple[float, float]) -> None:  # [N, *input]
    """Raises InputError where not one image lies in the valid range: the two are in different units."""
    flat = images.flatten(1)
    parts = flat.split(4096)  # a large set is not there a second time
    if not any(bool(((part >= clip[0]) & (part <= clip[1])).all(1).any()) for part in parts):
        finite = flat[flat.isfinite()]
        seen = f"{float(finite.min())} to {float(finite.max())}" if finite.numel() else "no finite values"
        raise InputError(
            f"no image lies in the valid range [{clip[0]}, {clip[1]}]: images have {seen}; "
            "give clip in the units of the images, or none"
        )


def _tensor(values: Images | Labels, name: str) -> Tensor:  # [N, ...]
    if isinstance(values, Tensor):
        with input_errors():
            check_values(values, name)
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be numbers, got an array of {array.dtype}")
    if array.dtype.itemsize > 8:
        raise InputError(f"{name} are {array.dtype}, which torch does not have: convert them to float64")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(native.copy())  # a copy: the caller's array may change, or be read-only


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
