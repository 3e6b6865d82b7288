"""Random changes of training images [B, C, H, W], a batch at a time: shifted crops, mirror images, squares cut out.

`train` takes any callable of these arguments, or one that changes labels too; see `apply`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from properties.device import sent
from training.late import LateChecks
from verifier.errors import InputError
from verifier.registry import hint, unknown

#: (images [B, *input], generator) -> images; or (images, labels [B], generator) -> (images, labels)
Augment = (
    Callable[[Tensor, torch.Generator], Tensor] | Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
)


class Change(ABC):
    """One kind of change; the value in its text, where it takes one, is its only field."""

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        """Other images, all that is random drawn from the generator (on the CPU)."""


@dataclass(frozen=True)
class Crop(Change):
    """The image on a black margin of so many pixels, and a part of its own size taken from there."""

    margin: int

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        batch, _, height, width = x.shape
        padded = torch.nn.functional.pad(x, (self.margin,) * 4)
        shift = sent(torch.randint(2 * self.margin + 1, (2, batch, 1), generator=generator), x.device)
        rows = shift[0] + torch.arange(height, device=x.device)  # [B, H]
        columns = shift[1] + torch.arange(width, device=x.device)  # [B, W]
        which = torch.arange(batch, device=x.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Flip(Change):
    """Left and right change places in half of the images."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        return torch.where(sent(mirrored, x.device)[:, None, None, None], x.flip(3), x)


@dataclass(frozen=True)
class Cutout(Change):
    """A square of so many pixels a side is black; its centre is anywhere in the image (DeVries & Taylor 2017)."""

    side: int

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        inside = []
        for size in x.shape[2:]:
            first = torch.randint(size, (len(x), 1), generator=generator) - self.side // 2
            place = torch.arange(size)
            inside.append(sent((place >= first) & (place < first + self.side), x.device))  # [B, size]
        return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


CHANGES: dict[str, type[Change]] = {"crop": Crop, "flip": Flip, "cutout": Cutout}


@dataclass(frozen=True)
class Augmentation:
    """Several changes, one after the other."""

    changes: tuple[Change, ...]

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:  # [B, C, H, W] -> [B, C, H, W]
        for change in self.changes:
            x = change(x, generator)
        return x


def augmentation(text: str, shape: Sequence[int]) -> Augmentation:
    """The changes of a text such as "crop=4,flip,cutout=8", in that order.

    Args:
        shape: of one image.

    Raises:
        InputError: no such change, a number that it does not take, or inputs that are no images with channels first.
    """
    if len(shape) != 3 or (shape[2] in (1, 3) and shape[0] > 4):
        raise InputError(f"augmentation takes images [channels, height, width], and inputs are {list(shape)}")
    changes = tuple(_change(part.strip(), shape) for part in text.split(","))
    return Augmentation(changes)


def _change(text: str, shape: Sequence[int]) -> Change:
    name, equals, number = text.partition("=")
    if name not in CHANGES:
        raise InputError(unknown("augmentation", name, list(CHANGES)) + hint(name, list(CHANGES)))
    takes = list(inspect.signature(CHANGES[name]).parameters)
    if not takes:
        if equals:
            raise InputError(f"augmentation {name!r} takes no number, got {text!r}")
        return CHANGES[name]()
    if not number.isdigit() or not 1 <= int(number) <= max(shape[1:]):
        raise InputError(f"augmentation {name}={takes[0].upper()} takes pixels, 1 to {max(shape[1:])}; got {text!r}")
    made: Callable[..., Change] = CHANGES[name]
    return made(int(number))


def apply(
    augment: Augment,
    x: Tensor,
    label: Tensor,
    generator: torch.Generator,
    classes: int,
    clip: tuple[float, float] | None,
    checks: LateChecks,
) -> tuple[Tensor, Tensor]:  # [B, *input], [B] -> the same
    """A batch, changed by a callable of either form.

    Args:
        classes: of the network. clip: the valid range of the images, which the changes must keep to.
        checks: what is told of values that are no images or labels of the network.

    Raises:
        InputError: it takes other arguments, or what it returns is no such batch.
    """
    called: Callable[..., Any] = augment
    changed = called(x, label, generator) if arguments_of(augment) == 3 else (called(x, generator), label)
    if not isinstance(changed, tuple) or len(changed) != 2 or not all(isinstance(part, Tensor) for part in changed):
        raise InputError("augment(images, labels, generator) must return images and labels, two tensors")
    images, labels = changed
    if images.shape != x.shape or labels.shape != label.shape or labels.dtype != label.dtype:
        raise InputError(
            f"augment must return images {list(x.shape)} and labels {list(label.shape)} of integers, as it got them; "
            f"it returned {list(images.shape)} and {list(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}"
        )
    images = images.to(x.dtype)
    checks.refuse(
        ((labels < 0) | (labels >= classes)).any(),
        f"augment must return labels of 0 to {classes - 1}, the network's classes; it returned others",
    )
    checks.refuse(~images.isfinite().all(), "augment returned images with NaN or infinite values")
    if clip is not None:
        checks.refuse(
            ((images < clip[0]) | (images > clip[1])).any(),
            f"augment returned images outside the valid range {list(clip)}: clamp them there, or give another clip",
        )
    return images, labels


def arguments_of(augment: Augment) -> int:
    """How many it takes: 3 with labels, 2 without.

    Raises:
        InputError: it is no function, or one of another number.
    """
    if not callable(augment):
        raise InputError(f"augment is a function of images and a generator (see augmentation), got {augment!r}")
    try:
        called = augment.forward if isinstance(augment, nn.Module) else augment
        parameters = inspect.signature(called).parameters.values()
    except ValueError:  # of a callable that is written in C
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = sum(p.kind in positional and p.default is p.empty for p in parameters)
    most = sum(p.kind in positional for p in parameters)
    if needed > 3 or (most < 2 and not any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        raise InputError(
            f"augment takes (images, generator), or (images, labels, generator); {augment!r} takes {needed} arguments. "
            "A transform without a generator must be wrapped in a function that draws from one"
        )
    return 3 if needed == 3 else 2
