"""Checks of what input sets are made from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from properties.device import looked_at, some
from properties.numbers import number_of


def radii_of(eps: float | str | Tensor, x: Tensor) -> Tensor:
    """Radii as [B] float64 numbers >= 0, one for each clean input x [B, *input]. Raises ValueError."""
    found = radii(eps, x.device)
    if found.dim() == 1 and len(found) != len(x):
        raise ValueError(f"eps must be one number or one per example, got shape {tuple(found.shape)}")
    return found.expand(len(x)).clone()


def radii(eps: float | str | Tensor, device: torch.device | None = None) -> Tensor:
    """One radius [] or one per example [B], float64 and >= 0; as a text, such as "8/255". Raises ValueError."""
    if isinstance(eps, str):
        eps = _written(eps)
    # filled in there: a number that is sent is waited for
    if device is not None and isinstance(eps, float) and 0 <= eps < math.inf:
        return torch.full((), eps, dtype=torch.float64, device=device)
    kind = str(getattr(eps, "dtype", "")).removeprefix("torch.")
    if kind.startswith(("bool", "complex")) or _truths(eps):
        raise ValueError(f"eps must be a number, or a tensor of one per example, got {eps!r}")
    try:
        found = torch.as_tensor(eps, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"eps must be a number, or a tensor of one per example, got {eps!r}") from error
    check_values(found, "eps")
    if found.dim() not in (0, 1):
        raise ValueError(f"eps must be one number or one per example, got shape {tuple(found.shape)}")
    bad = ~(found.isfinite() & (found >= 0))
    if some(bad):
        raise ValueError(
            f"eps must be a finite number >= 0, got {float(found[bad][0]) if found.dim() else float(found)}"
        )
    return found


def _written(eps: str) -> float:
    try:
        return number_of(eps)
    except ValueError as error:
        raise ValueError(f"eps must be a number: {error}") from None


def _truths(values: object) -> bool:
    """Whether it is a truth value, or a list with one."""
    return any(isinstance(value, bool) for value in (values if isinstance(values, list | tuple) else [values]))


def check_values(x: Tensor, name: str) -> None:  # [...]
    """Raises ValueError where a tensor has no numbers to read, or not one for each of its places."""
    if x.is_nested or x.layout is not torch.strided:
        kind = "nested" if x.is_nested else f"sparse ({str(x.layout).removeprefix('torch.')})"
        raise ValueError(f"{name} is a {kind} tensor: give an ordinary one, such as {name}.to_dense()")
    if x.is_meta:
        raise ValueError(
            f"{name} is on the device meta, where tensors have no values; if that is torch's default device here, "
            'torch.set_default_device("cpu") is back to the usual one'
        )


def said(radii: Tensor) -> float | list[float]:
    """Radii [B] as descriptions of sets have them: one number where all examples share it."""
    return float(radii[0]) if len(radii.unique()) == 1 else radii.tolist()


def finite(x: Tensor, name: str) -> Tensor:  # [...]
    """x in float64, copied. Raises ValueError where it is not finite."""
    x = x.detach().to(torch.float64, copy=True)  # sets do not follow later changes of their inputs
    check_finite(x, name)
    return x


def check_finite(x: Tensor, name: str) -> None:  # [...] float64
    """Raises ValueError where x is not finite."""
    if not looked_at(x):
        return
    if x.sum().isfinite():  # as no sum with NaN or an infinity is: one pass for what is nearly always so
        return
    bad = ~x.isfinite()
    if bad.any():
        at = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(f"{name} has {int(bad.sum())} NaN or infinite values, the first at index {at}")


def valid_range(clip: tuple[float, float], x: Tensor) -> tuple[float, float]:  # [...]
    """The ends of the valid range, in which all of x lies. Raises ValueError."""
    low, high = ends(clip)
    outside = (x < low) | (x > high)
    if some(outside):
        at = tuple(int(i) for i in outside.nonzero()[0])
        raise ValueError(
            f"x has {int(outside.sum())} values outside the valid range [{low}, {high}], the first at index {at}: "
            f"{float(x[at])}; pass inputs in the model's units, or another clip"
        )
    return low, high


def ends(clip: tuple[float, float]) -> tuple[float, float]:
    """The ends of a valid range. Raises ValueError."""
    if isinstance(clip, str) or _truths(clip):
        raise ValueError(f"clip must be (low, high), two numbers, got {clip!r}")
    try:
        low, high = (float(end) for end in clip)
    except (TypeError, ValueError) as error:
        raise ValueError(f"clip must be (low, high), two numbers, got {clip!r}") from error
    if not low <= high:
        raise ValueError(f"clip must be (low, high) with low <= high, got {clip}")
    return low, high
