"""Where images have their channels: first, as torch's convolutions take them, or last, as many files have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verifier.errors import InputError
from verifier.registry import hint

#: --layout -> the axes of images [N, ...] in the order that the network takes them in
LAYOUTS = {"nchw": (0, 1, 2, 3), "nhwc": (0, 3, 1, 2), "nchw:nhwc": (0, 2, 3, 1)}
#: as many channels as pictures have: grey, grey with alpha, RGB, RGB with alpha
_CHANNELS = (1, 2, 3, 4)


def arranged(images: Tensor, layout: str | None) -> Tensor:  # [N, ...]
    """Images in the order that a network takes them in.

    Args:
        layout: nhwc, of images [N, H, W, C], which become [N, C, H, W]; nchw:nhwc the other way round; None or nchw: as
            they are.

    Raises:
        InputError: no such layout, or images that are not [N, ., ., .].
    """
    if layout is None:
        return images
    if layout not in LAYOUTS:
        raise InputError(f"--layout is {', '.join(LAYOUTS)}, got {layout!r}{hint(layout, list(LAYOUTS))}")
    if images.dim() != 4:
        raise InputError(
            f"--layout is about images [N, a, b, c], and these are {list(images.shape)}: --shape, which comes first, "
            "gives each its three axes in the file's order, such as --shape 32,32,3 --layout nhwc"
        )
    return images.permute(LAYOUTS[layout]).contiguous()


def scrambled(images: Sequence[int], shape: Sequence[int]) -> str:
    """The layout that is meant where reshaping images would move channels; empty where it moves none.

    Args:
        images: shape of one of the file's. shape: what it is to become, of as many numbers.
    """
    if len(images) != 3 or tuple(images) == tuple(shape):
        return ""
    first, last = images[0], images[-1]
    if last in _CHANNELS[1:] and last not in (first, images[1]) and shape[0] == last:
        return "nhwc"
    if first in _CHANNELS[1:] and first not in (last, images[1]) and shape[-1] == first:
        return "nchw:nhwc"
    return ""


def other_layout(shape: Sequence[int], takes: Callable[[str], bool]) -> str:
    """The layout under which a network takes images that it does not take as they are; empty where there is none.

    Args:
        shape: of one image.
        takes: whether the network takes images of that layout.
    """
    if len(shape) != 3 or len(set(shape)) == 1:
        return ""
    return next((layout for layout in ("nhwc", "nchw:nhwc") if takes(layout)), "")


def advice(shape: Sequence[int], layout: str) -> str:
    """What to say of images of another layout than the network's."""
    where, axes = ("last", "first") if layout == "nhwc" else ("first", "last"), LAYOUTS[layout]
    return (
        f"images {list(shape)} have their channels {where[0]}, and the network takes them {where[1]}: turn them by "
        f"--layout {layout}, in Python by images.permute{axes} (numpy: images.transpose{axes})"
    )


def doubtful(shape: Sequence[int]) -> bool:
    """Whether an image of that shape looks like a picture in colours, with its channels last."""
    if len(shape) != 3:
        return False
    height, width, channels = shape
    return channels in _CHANNELS[2:] and min(height, width) > max(_CHANNELS)


def permuted(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape of one image after `arranged`."""
    return tuple(shape[axis - 1] for axis in LAYOUTS[layout][1:])


def runs(model: Callable[[Tensor], object], batch: Tensor) -> Callable[[str], bool]:  # [B, a, b, c]
    """What `other_layout` asks, of a model that is tried."""

    def takes(layout: str) -> bool:
        try:
            with torch.no_grad():
                model(arranged(batch, layout))
        except Exception:  # whatever the model raises: it does not take them
            return False
        return True

    return takes
