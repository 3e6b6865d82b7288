"""Arithmetic of few bits, in which a rounding that the checker does not pay for shows in its bounds.

Arrays of `Coarse` round every sum, product, quotient and root to 20 bits, one after the other, in a direction of
choice; `arithmetic` makes the checker's modules use them, with the unit roundoff that goes with it. What the checker
proves must hold whatever the direction is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

BITS = 20
UNIT = 2.0 ** (1 - BITS)  #: directed rounding to so many bits
MODES = ("up", "down", "in", "out", "mixed")
_ROUNDED = {np.add, np.subtract, np.multiply, np.divide, np.sqrt}
_mode = SimpleNamespace(name="up", generator=np.random.default_rng(0))


def rounded(x: np.ndarray) -> np.ndarray:
    """To so many bits, in the direction of the mode; what has so many bits stays as it is."""
    x = np.asarray(x, np.float64)
    mantissa, exponent = np.frexp(x)
    with np.errstate(invalid="ignore"):
        scaled = mantissa * 2.0**BITS
        low, high = np.floor(scaled), np.ceil(scaled)
        if _mode.name == "mixed":
            found = np.where(_mode.generator.random(x.shape) < 0.5, low, high)
        elif _mode.name in ("up", "down"):
            found = high if _mode.name == "up" else low
        else:
            found = np.where((x > 0) == (_mode.name == "out"), high, low)
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(x) & (np.abs(x) > 1e-250), np.ldexp(found / 2.0**BITS, exponent), x)


class Coarse(np.ndarray):
    """A float64 array whose arithmetic is rounded."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        plain = [_plain(t) for t in inputs]
        if ufunc is np.matmul:
            found = _product(*plain)
        elif ufunc in (np.add,) and method == "reduce":
            found = _sum(plain[0], kwargs.get("axis", 0), kwargs.get("keepdims", False))
        elif ufunc is np.add and method == "reduceat":
            found = _pieces(plain[0], plain[1], kwargs.get("axis", 0))
        elif method == "at":
            getattr(ufunc, method)(*plain)
            return None
        else:
            found = getattr(ufunc, method)(*plain, **kwargs)
            if ufunc in _ROUNDED and method == "__call__" and np.asarray(found).dtype.kind == "f":
                found = rounded(found)
        if out is not None:
            out[0][...] = found
            return out[0]
        return _coarse(found)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.einsum:
            _, a, b = args
            return _coarse(_sum(rounded(_plain(a) * _plain(b)), -1, False))
        if func is np.sum:
            return args[0].sum(*args[1:], **kwargs)
        return _coarse(func(*_plain(args), **_plain(kwargs)))


def _plain(value: Any) -> Any:
    if isinstance(value, Coarse):
        return value.view(np.ndarray)
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _coarse(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_coarse(v) for v in value)
    if isinstance(value, float | np.floating):
        value = np.asarray(value)
    return value.view(Coarse) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def _sum(a: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    if a.dtype.kind != "f":
        return a.sum(axis, keepdims=keepdims)
    if axis is None:
        a, axis = a.reshape(-1), 0
    total = np.zeros(np.moveaxis(a, axis, 0).shape[1:])
    for part in np.moveaxis(a, axis, 0):
        total = rounded(total + part)
    return np.expand_dims(total, axis) if keepdims else total


def _pieces(a: np.ndarray, first: np.ndarray, axis: int) -> np.ndarray:
    assert axis == 1
    ends = [*first[1:].tolist(), a.shape[1]]
    return np.stack([_sum(a[:, i:j], 1, False) for i, j in zip(first.tolist(), ends, strict=True)], 1)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    total = np.zeros(np.broadcast_shapes(left[..., :1].shape, right[..., :1, :].shape))
    for k in range(left.shape[-1]):
        total = rounded(total + rounded(left[..., k : k + 1] * right[..., k : k + 1, :]))
    total = total[..., 0] if b.ndim == 1 else total
    return total[..., 0, :] if a.ndim == 1 and b.ndim > 1 else total[..., 0] if a.ndim == 1 else total


class _Numpy(ModuleType):
    """numpy whose new arrays are coarse."""

    def __getattr__(self, name: str) -> Any:
        own = getattr(np, name)
        if name not in ("zeros", "zeros_like", "ones", "ones_like", "empty", "full", "eye", "array", "asarray"):
            return own
        return lambda *args, **kwargs: _coarse(own(*args, **kwargs))


def gamma(n: int, unit: float = UNIT) -> float:
    unit = UNIT if unit == 2.0**-53 else unit
    return n * unit / (1 - n * unit) * (1 + 2.0**-30) if n * unit < 0.5 else np.inf


def down(x: np.ndarray) -> np.ndarray:
    """The next number of so many bits below x, or a smaller one."""
    plain = np.asarray(_plain(x), np.float64)
    mantissa, exponent = np.frexp(plain)
    with np.errstate(all="ignore"):
        less = np.ldexp((np.floor(mantissa * 2.0**BITS) - 1) / 2.0**BITS, exponent)
    small = np.abs(plain) <= 1e-250  # where nothing is rounded to so many bits
    return _coarse(np.where(np.isfinite(plain), np.where(small, np.nextafter(plain, -np.inf), less), -np.inf))


def up(x: np.ndarray) -> np.ndarray:
    return -down(-x)


def coarse(x: Any) -> np.ndarray:
    """An array whose arithmetic is coarse."""
    return np.array(x, dtype=np.float64).view(Coarse)


@contextmanager
def arithmetic(mode: str, *modules: ModuleType) -> Iterator[None]:
    """With the modules of the checker computing in coarse arithmetic, rounding as MODES say."""
    ours = {
        "np": _Numpy("numpy"), "gamma": gamma, "down": down, "up": up, "DOUBLE": UNIT, "AMPLE": 1 + 2.0**-9,
        "SMOOTH": 512 * UNIT, "SMOOTH_SLOPE": 2048 * UNIT,
    }  # fmt: skip
    _mode.name, _mode.generator = mode, np.random.default_rng(0)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.multiple(module, **{k: v for k, v in ours.items() if hasattr(module, k)}))
            for name in ("sigmoid", "tanh"):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, _smooth(getattr(module, name))))
        yield


def _smooth(function: Any) -> Any:
    """Off by as much as the checker allows for, rounding as the mode says."""

    def off(z: Any) -> Any:
        exact = function(np.asarray(_plain(z), np.float64))
        sign = {"up": 1, "down": -1, "in": -np.sign(exact), "out": np.sign(exact)}.get(_mode.name)
        sign = np.sign(_mode.generator.random(exact.shape) - 0.5) if sign is None else sign
        return _coarse(exact + sign * 511 * UNIT)

    return off
