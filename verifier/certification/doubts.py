"""What is hardly meant, though it can be done: warned of before a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from properties import Perturbation, Threat
from verifier.layout import doubtful, runs


class DataWarning(UserWarning):
    """Data, or what is asked about them, are hardly what is meant; the run goes on."""


class UnitsWarning(DataWarning):
    """Images look as if they were in other units than a network takes."""


def doubts(images: Tensor, asked: Perturbation) -> Iterator[DataWarning]:
    """What is doubtful about images [N, *input] and the sets around them."""
    known = images.isfinite()
    finite = images if bool(known.all()) else images[known]
    if finite.numel() == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    if asked.clip is None and low >= 0 and high > 10:
        yield UnitsWarning(
            f"images range from {low:g} to {high:g}, and no valid range is given: eps is in these units, and networks "
            "mostly take images from 0 to 1 (divide by 255, and give clip)"
        )
    reach = max(((f * e) for f, e in _cubes(asked)), default=0.0)
    if high > low and reach > high - low:
        yield DataWarning(
            f"eps {reach:g} is larger than the whole range of the images, {low:g} to {high:g}: eps is in the units of "
            "the images, so for images from 0 to 1 it is a fraction such as 8/255"
        )


def order_doubts(model: object, images: Tensor) -> Iterator[DataWarning]:  # [N, ...]
    """Whether pictures have their channels last, and a module takes their numbers in any order."""
    shape = list(images.shape[1:])
    if not isinstance(model, nn.Module) or not doubtful(shape) or not runs(model, _as_weights(model, images))("nhwc"):
        return
    yield DataWarning(
        f"images {shape} look as if they had their channels last, and the network takes their numbers in any order: "
        f"if it was trained on {[shape[2], *shape[:2]]}, turn them by --layout nhwc, in Python by "
        "images.permute(0, 3, 1, 2)"
    )


def _as_weights(model: nn.Module, images: Tensor) -> Tensor:  # [N, ...] -> [2, ...]
    """Two zero images, as the model takes them."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), images)
    return torch.zeros(2, *images.shape[1:], dtype=weight.dtype, device=weight.device)


def _cubes(asked: Perturbation) -> Iterator[tuple[float, float]]:
    """Factor and largest radius of each part of a threat model whose radius is a distance of pixels."""
    eps = float(torch.as_tensor(asked.eps).max())
    return ((factor, eps) for name, factor in Threat.of(asked.threat).parts if name == "linf")
