"""Inputs of networks as small images: grey or coloured, channels first or last; differences on a stated scale."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

#: pixels of a side, at least: a flat input or a tiny one is a table, not a picture
_LEAST, _CHANNELS = 4, (1, 3)


@dataclass(frozen=True)
class Scale:
    """What is drawn black and what white."""

    low: float
    high: float

    @classmethod
    def of(cls, clip: tuple[float, float] | None, arrays: list[np.ndarray]) -> Scale:
        """The valid range; without one [0, 1] where all values are within, else from the least value to the largest."""
        if clip is not None and np.isfinite(clip).all() and clip[0] < clip[1]:
            return cls(*clip)
        finite = [array[np.isfinite(array)] for array in arrays]
        low = min((float(a.min()) for a in finite if a.size), default=0.0)
        high = max((float(a.max()) for a in finite if a.size), default=1.0)
        if low >= 0 and high <= 1:
            return cls(0.0, 1.0)
        return cls(low, high if high > low else low + 1)


def as_image(x: np.ndarray, pixels: tuple[int, ...] | None = None) -> np.ndarray | None:  # [*input]
    """The values as [H, W] or [H, W, 3]; None where they are no image.

    Args:
        pixels: the shape to read them in, where the network takes them in another one.
    """
    shape = tuple(n for n in x.shape) if pixels is None else pixels
    if int(np.prod(shape)) != x.size:
        return None
    x = x.reshape(shape)
    while x.ndim > 3 and x.shape[0] == 1:
        x = x[0]
    if x.ndim == 3 and x.shape[0] in _CHANNELS:
        x = np.moveaxis(x, 0, -1)
    if x.ndim == 3 and x.shape[-1] == 1:
        x = x[..., 0]
    fits = x.ndim == 2 or (x.ndim == 3 and x.shape[-1] == 3)
    return x if fits and min(x.shape[:2]) >= _LEAST else None


def picture(image: np.ndarray, scale: Scale) -> str:  # [H, W] or [H, W, 3]
    """A data URI of the image; values outside of the scale, and NaN, are drawn as its ends."""
    unit = np.nan_to_num((image.astype(np.float64) - scale.low) / (scale.high - scale.low))
    return _uri(unit if image.ndim == 3 else np.repeat(unit[..., None], 3, axis=2))


def difference(change: np.ndarray, limit: float) -> str:  # [H, W] or [H, W, 3]
    """A data URI of a change, from -limit to limit.

    Of grey images it is blue where a pixel gets darker and red where it gets lighter; of coloured ones every channel is
    grey where it does not change.
    """
    unit = np.nan_to_num(change.astype(np.float64) / limit)
    if unit.ndim == 3:
        return _uri(0.5 + unit / 2)
    places = np.linspace(-1, 1, len(_RAMP))
    return _uri(np.stack([np.interp(unit, places, channel) for channel in np.transpose(_RAMP)], axis=-1) / 255)


#: from blue over white to red, told apart by all kinds of colour vision; the style sheet has the same
_RAMP = ((5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31))


def _uri(unit: np.ndarray) -> str:  # [H, W, 3] in [0, 1]
    from matplotlib.image import imsave

    file = io.BytesIO()
    pixels = np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    imsave(file, pixels, format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
