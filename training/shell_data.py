"""Training data from a shell: what of their form is recognised without being told, and said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from verifier.commands.options import DataOptions, FormatOptions
from verifier.commands.shared import say

if TYPE_CHECKING:
    from torch import nn


def for_architecture(data: DataOptions, quiet: bool) -> DataOptions:
    """The same, as this program's architectures take images: with a channel axis, which comes first.

    Images [N, H, W] get one; images [N, H, W, 3], as many files have them, are turned. Raises InputError.
    """
    from verifier.data_files import kind_of_images
    from verifier.layout import doubtful

    kind = kind_of_images(data.data, data.form.images_key)
    if kind is None or data.form.shape is not None:
        return data
    size, _ = kind
    if data.form.layout is None and doubtful(size):
        return replace(data, form=_turned(data.form, size, quiet))
    if len(size) != 2:
        return data
    shape = f"1,{size[0]},{size[1]}"
    if not quiet:
        say(f"note: images are [N, H, W]: taken as --shape {shape}")
    return replace(data, form=replace(data.form, shape=shape))


def for_network(data: DataOptions, network: nn.Module, quiet: bool) -> DataOptions:
    """The same, turned where the network takes them only so: with channels first, in place of last.

    Raises:
        InputError: no such file.
    """
    import torch

    from verifier.data_files import kind_of_images
    from verifier.layout import doubtful, runs

    kind = kind_of_images(data.data, data.form.images_key)
    if kind is None or data.form.shape is not None or data.form.layout is not None or not doubtful(kind[0]):
        return data
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    takes = runs(network, torch.zeros(1, *kind[0], dtype=dtype))
    if takes("nchw") or not takes("nhwc"):
        return data  # where it takes neither, its import says why
    return replace(data, form=_turned(data.form, kind[0], quiet))


def in_units(data: DataOptions, limits: tuple[float, float] | None, quiet: bool) -> DataOptions:
    """The same, but integers 0 to 255 that are not bytes are divided by 255 where the valid range is [0, 1].

    (Bytes always are.) Raises InputError.
    """
    from verifier.data_files import kind_of_images

    kind = kind_of_images(data.data, data.form.images_key)
    if limits != (0.0, 1.0) or data.form.scale is not None or kind is None or kind[1].kind not in "iu":
        return data
    images = data.form.arrays(data.data)[0] if kind[1].itemsize > 1 else None
    if images is None or not images.size or images.min() < 0 or not 1 < images.max() <= 255:
        return data
    if not quiet:
        say(f"note: images are {images.dtype} 0 to {images.max()}, and the valid range is [0, 1]: taken as --scale 255")
    return replace(data, form=replace(data.form, scale=255.0))


def _turned(form: FormatOptions, size: tuple[int, ...], quiet: bool) -> FormatOptions:
    """With --layout nhwc, and said so."""
    if not quiet:
        shown = ", ".join(map(str, size))
        say(f"note: images are [N, {shown}], channels last: taken as --layout nhwc (--layout nchw: as they are)")
    return replace(form, layout="nhwc")
