"""The test of a device's sums of products: every way of computing them that is not IEEE's is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from verifier import kernels
from verifier.arithmetic import precise_arithmetic
from verifier.errors import InputError

PRODUCTS = ("mm", "bmm", "addmm", "_addmm_activation")
CPU = torch.device("cpu")


class Computing(TorchDispatchMode):
    """Inside, products of matrices and convolutions are computed in another way."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor] | None = None, convolution: Any = None) -> None:
        super().__init__()
        self.product, self.convolution = product, convolution

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if self.product is not None and name in PRODUCTS:
            found = self.product(*args[-2:])
            return found if len(args) == 2 else found + args[0]
        if self.convolution is not None and name == "convolution":
            return self.convolution(func, *args)
        return func(*args, **(kwargs or {}))


def rounded(bits: int) -> Callable[[Tensor], Tensor]:
    """To so many bits, as TF32 (11) and bfloat16 (8) have them."""

    def one(x: Tensor) -> Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent)

    return one


def tf32(a: Tensor, b: Tensor) -> Tensor:
    return (rounded(11)(a) @ rounded(11)(b)) if a.dtype is torch.float32 else a @ b


def three_halves(a: Tensor, b: Tensor) -> Tensor:
    """A float32 as two bfloat16, of whose four products three are added up."""
    (a0, a1), (b0, b1) = ((rounded(8)(x), rounded(8)(x - rounded(8)(x))) for x in (a, b))
    return a0 @ b0 + a0 @ b1 + a1 @ b0 if a.dtype is torch.float32 else a @ b


def of_one_scale(a: Tensor, b: Tensor) -> Tensor:
    """Float64 as integers of 55 bits, scaled by the largest entry of each row and column."""
    if a.dtype is not torch.float64:
        return a @ b
    rows, columns = a.abs().amax(-1, keepdim=True).clamp(min=1e-300), b.abs().amax(-2, keepdim=True).clamp(min=1e-300)
    whole = (a / rows * 2.0**55).round() @ (b / columns * 2.0**55).round()
    return whole * (rows * 2.0**-55) * (columns * 2.0**-55)


def strassen(a: Tensor, b: Tensor) -> Tensor:
    if a.dim() > 2 or any(n % 2 for n in (*a.shape, *b.shape)):
        return a @ b
    (a0, a1), (a2, a3) = (x.chunk(2, 1) for x in a.chunk(2))
    (b0, b1), (b2, b3) = (x.chunk(2, 1) for x in b.chunk(2))
    m = ((a0 + a3) @ (b0 + b3), (a2 + a3) @ b0, a0 @ (b1 - b3), a3 @ (b2 - b0), (a0 + a1) @ b3,
         (a2 - a0) @ (b0 + b1), (a1 - a3) @ (b2 + b3))  # fmt: skip
    top = torch.cat([m[0] + m[3] - m[4] + m[6], m[2] + m[4]], 1)
    return torch.cat([top, torch.cat([m[1] + m[3], m[0] - m[1] + m[2] + m[5]], 1)])


def winograd(func: Any, x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    """F(2 x 2, 3 x 3) of Lavin and Gray (2016)."""
    if x.dim() != 4 or others[4]:  # a transposed one
        return func(x, weight, *others)
    g = x.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    b = x.new_tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    a = x.new_tensor([[1, 1, 1, 0], [0, 1, -1, -1]])
    tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)  # [N, C, I, J, 4, 4]
    whole = torch.einsum("ocpq,ncijpq->noijpq", g @ weight @ g.T, b @ tiles @ b.T)
    return (a @ whole @ a.T).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)


def fourier(func: Any, x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    if x.dim() != 4 or others[4]:
        return func(x, weight, *others)
    size = [n + 2 for n in x.shape[2:]]
    spectrum = torch.fft.rfft2(F.pad(x, (1, 1, 1, 1))).unsqueeze(1) * torch.fft.rfft2(weight.flip(2, 3), size)
    return torch.fft.irfft2(spectrum.sum(2), size)[..., 2:, 2:]


def test_ieee_sums_pass() -> None:
    assert kernels.fault_of(CPU) == ""


def test_other_orders_of_summation_pass() -> None:
    """Backwards, in blocks, and with the products rounded first."""
    for one in (
        lambda a, b: a.flip(-1) @ b.flip(-2),
        lambda a, b: sum(x @ y for x, y in zip(a.split(16, -1), b.split(16, -2), strict=True)),
        lambda a, b: (a.double() @ b.double()).to(a.dtype),
    ):
        with Computing(one):
            assert kernels.fault_of(CPU) == ""


@pytest.mark.parametrize("way", [tf32, three_halves, of_one_scale, strassen])
def test_products_of_another_kind_are_found_out(way: Callable[[Tensor, Tensor], Tensor]) -> None:
    dtype = torch.float64 if way is of_one_scale else torch.float32
    a, b = torch.rand(6, 8, dtype=dtype), torch.rand(8, 4, dtype=dtype)
    assert torch.allclose(way(a, b), a @ b, rtol=1e-2), "the fake itself"
    with Computing(way):
        assert "product" in kernels.fault_of(CPU)


@pytest.mark.parametrize("way", [winograd, fourier])
def test_convolutions_of_another_kind_are_found_out(way: Callable[..., Tensor]) -> None:
    x, weight = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3)
    expected = F.conv2d(x, weight, padding=1)
    with Computing(convolution=way):
        assert torch.allclose(F.conv2d(x, weight, padding=1), expected, rtol=1e-4), "the fake itself"
        assert "a convolution in float32" in kernels.fault_of(CPU)


def test_a_device_that_fails_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Computing(tf32):
        fault = kernels.fault_of(CPU)
    monkeypatch.setattr(kernels, "_known_fault", lambda device: fault)
    kernels.ask_products(CPU)  # the CPU's arithmetic is taken for what it is
    with pytest.raises(InputError, match=r"cuda:0 does not add up products.*product of 8 x 24.*give device='cpu'"):
        kernels.ask_products(torch.device("cuda", 0))


def test_cudnn_is_the_users_again() -> None:
    """Inside, convolutions of a GPU are products of matrices."""
    before = torch.backends.cudnn.enabled
    try:
        for setting in (True, False):
            torch.backends.cudnn.enabled = setting
            with precise_arithmetic():
                assert not torch.backends.cudnn.enabled
            assert torch.backends.cudnn.enabled is setting
    finally:
        torch.backends.cudnn.enabled = before
