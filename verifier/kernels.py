"""Whether a device adds up products as IEEE arithmetic does: a test by sums whose exact values are known.

Libraries of GPUs may compute in narrower types than those of the numbers (TF32, pairs of bfloat16 for a float32),
emulate wide ones by integers of a common scale (Ozaki), or add up what cancels (Winograd, Strassen, Fourier). Each
shows in one of the two sums here, which every order of summation, with or without fused multiply-adds, gets right to
the last digit.

A failed test proves that bounds cannot be trusted. A passed one proves little: which kernel runs is the library's
choice for every shape, so that no bound of a device counts as rigorous for it (docs/soundness.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.arithmetic import precise_arithmetic
from verifier.errors import InputError

#: h of the products (1 + h) (1 - h) = 1 - h^2, which have just enough digits; a number that hides everything beside it
_H = {torch.float32: 2.0**-12, torch.float64: 2.0**-26}
_HUGE = {torch.float32: 2.0**40, torch.float64: 2.0**90}

#: of products of matrices: one that small kernels take, one for the large ones
_SIZES = ((8, 24, 8), (192, 400, 192))

_LOCK = threading.Lock()


def ask_products(device: torch.device) -> None:
    """To be called before bounds are computed on a device; tests a CUDA device once in a process, in milliseconds.

    Raises:
        InputError: its sums of products are not IEEE's.
    """
    if device.type == "cpu":
        return
    with _LOCK:
        fault = _known_fault(device)
    if fault:
        raise InputError(
            f"device {device} does not add up products as IEEE arithmetic does ({fault}), so that nothing "
            "computed there can be trusted: switch off the emulation that its libraries were told to use "
            "(CUBLAS_EMULATE_..., NVIDIA_TF32_OVERRIDE), or give device='cpu'"
        )


@cache
def _known_fault(device: torch.device) -> str:
    return fault_of(device)


def fault_of(device: torch.device) -> str:
    """The first kernel of a device whose sums are wrong, and by how much; empty where all are right.

    The device waits once.
    """
    names, off = [], []
    with precise_arithmetic(), torch.no_grad():
        for dtype in _H:
            for name, kernel in _KERNELS.items():
                names.append(f"{name} in {str(dtype).removeprefix('torch.')}")
                off.append(kernel(dtype, device).double().abs().max())
        worst = torch.stack(off).tolist()
    return next((f"{name}: off by {by:.3g}" for name, by in zip(names, worst, strict=True) if by != 0), "")


def _products(multiply: Callable[[Tensor, Tensor], Tensor], m: int, k: int, n: int) -> Callable[..., Tensor]:
    """The kernel of a product of matrices [m, k] and [k, n], k >= 2 m + 1; what it gives is how far that is off.

    Row r is (1 + h) at column 2 r, -1 behind it and something huge at the last one, which meets zeros.
    """

    def off(dtype: torch.dtype, device: torch.device) -> Tensor:  # [m, n]
        h, rows = _H[dtype], torch.arange(m)
        a, b = torch.zeros(m, k, dtype=dtype), torch.ones(k, n, dtype=dtype)
        a[rows, 2 * rows], a[rows, 2 * rows + 1], a[:, -1] = 1 + h, -1.0, _HUGE[dtype]
        b[0::2] = 1 - h
        b[-1] = 0.0
        return multiply(a.to(device), b.to(device)) + h * h

    return off


def arithmetic_of(device: torch.device, dtype: torch.dtype) -> str:
    """What bounds are computed in, in a line."""
    name = str(dtype).removeprefix("torch.")
    if device.type == "cpu":
        return f"{name} on the CPU; no TF32, bfloat16 or autocast, no NNPACK"
    return (
        f"{name} on {device}, its sums of products tested; no TF32 or autocast, no cuDNN; what is CHECKED was proved "
        "on the CPU"
    )


def _convolutions(convolve: Callable[..., Tensor], dimensions: int) -> Callable[..., Tensor]:
    """The kernel of a convolution by 3 taps a side, of which the middle one counts; gives how far it is off.

    Every pixel has (1 + h) and 1 in its channels but one, which is huge: what lies beside it must not see it.
    """

    def off(dtype: torch.dtype, device: torch.device) -> Tensor:  # [8]
        h, side, channels = _H[dtype], 8, 8
        x = torch.zeros(2, channels, *(side,) * dimensions, dtype=dtype)
        x[:, 0], x[:, 1] = 1 + h, 1.0
        x.flatten(2)[:, :, sum(5 * side**k for k in range(dimensions))] = _HUGE[dtype]
        weight = torch.zeros(channels, channels, *(3,) * dimensions, dtype=dtype)
        middle = (1,) * dimensions
        for channel in range(channels):  # by both conventions of which channels come first
            weight[(channel, 0, *middle)] = weight[(0, channel, *middle)] = 1 - h
            weight[(channel, 1, *middle)] = weight[(1, channel, *middle)] = -1.0
        found = convolve(x.to(device), weight.to(device), padding=1) + h * h
        return found[(slice(None), -1)].flatten(1)[:, : 5 * side ** (dimensions - 1)]  # before the huge one

    return off


_KERNELS = {
    **{f"a product of {m} x {k} and {k} x {n}": _products(torch.matmul, m, k, n) for m, k, n in _SIZES},
    **{f"a batch of products of {m} x {k} and {k} x {n}":
       _products(lambda a, b: torch.bmm(a.expand(3, -1, -1), b.expand(3, -1, -1)), m, k, n) for m, k, n in _SIZES},
    "a linear layer": _products(lambda a, b: F.linear(a, b.T.contiguous(), b.new_zeros(b.shape[1])), 64, 136, 48),
    "a sum of products of its own": _products(lambda a, b: torch.einsum("rk,kc->rc", a, b), 16, 40, 24),
    "a convolution in one dimension": _convolutions(F.conv1d, 1),
    "a convolution": _convolutions(F.conv2d, 2),
    "a convolution in three dimensions": _convolutions(F.conv3d, 3),
    "a transposed convolution": _convolutions(F.conv_transpose2d, 2),
}  # fmt: skip
