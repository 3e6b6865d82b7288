"""Images changed along few directions: brightness, contrast, a smooth bias field, or directions of one's own."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from properties.arguments import finite, radii_of, said
from properties.input_set import InputSet, register
from properties.zonotope import ROUNDING, Zonotope


@register
class LinearImages(Zonotope):
    """{x + sum_k e_k d_k : |e_k| <= radius_k}, those of them in the valid range `clip` where given.

    Args:
        x: [B, *input], the clean inputs.
        directions: [n, *input], or [B, n, *input] for directions of each example's own.
        radius: >= 0: one number, [n] or [B, n].
        clip, rounding: as of `Zonotope`. With clip, only images that need no clamping are members: where x has pixels
            at both ends of the range (MNIST), no brighter and no darker image is left. Give clip=None there.
    """

    def __init__(
        self,
        x: Tensor,
        directions: Tensor,
        radius: float | Tensor,
        clip: tuple[float, float] | None = None,
        rounding: float = ROUNDING,
    ) -> None:
        if directions.dim() == x.dim():
            directions = directions.unsqueeze(0)
        super().__init__(x, directions, clip, rounding, radius)

    @classmethod
    def examples(cls) -> list[Self]:
        x, waves = _image(), torch.linspace(0, 9, 18).cos().reshape(2, 1, 3, 3)
        return [
            cls(x, waves, torch.tensor([0.1, 0.2])),
            cls(x, waves.unsqueeze(0).repeat(2, 1, 1, 1, 1), 0.5, (0, 1)),
        ]

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "kind": "linear-images"}


@register
class Brightness(LinearImages):
    """{x + b : |b| <= eps}, one b for all pixels, those in the valid range where one is given.

    Args:
        x: [B, *input]. eps: >= 0, one number or one per example [B]. clip, rounding: as of `LinearImages`: with clip,
            an image with pixels at 0 and at 1 cannot change at all.
    """

    threat = "brightness"
    nested = True

    def __init__(
        self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None, rounding: float = ROUNDING
    ) -> None:
        super().__init__(x, torch.ones_like(x[:1]), radii_of(eps, x).unsqueeze(1), clip, rounding)

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> InputSet:  # [B, *input]
        return cls(x, eps, clip)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(_image(), 0.1), cls(_image(), torch.tensor([0.0, 0.4]), (0, 1))]

    def describe(self) -> dict[str, object]:
        return {"kind": "brightness", "eps": said(self.reach[:, 0]), "clip": self.clip, "rounding": self.rounding}


@register
class Contrast(LinearImages):
    """{pivot + (1 + a)(x - pivot) : |a| <= eps}, those in the valid range where one is given.

    Args:
        x: [B, *input]. eps: >= 0, one number or one per example [B]. clip, rounding: as of `LinearImages`.
        pivot: what does not change, in the units of x; default the middle of the valid range, without one 0.
    """

    threat = "contrast"
    nested = True

    def __init__(
        self,
        x: Tensor,
        eps: float | Tensor,
        clip: tuple[float, float] | None = None,
        pivot: float | None = None,
        rounding: float = ROUNDING,
    ) -> None:
        self.pivot = _pivot(pivot, clip)
        directions = (finite(x, "x") - self.pivot).unsqueeze(1)
        super().__init__(x, directions, radii_of(eps, x).unsqueeze(1), clip, rounding)

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> InputSet:  # [B, *input]
        return cls(x, eps, clip)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(_image(), 0.2), cls(_image(), torch.tensor([0.1, 0.9]), (0, 1)), cls(_image(), 0.1, pivot=0.3)]

    def describe(self) -> dict[str, object]:
        return {
            "kind": "contrast", "eps": said(self.reach[:, 0]), "pivot": self.pivot, "clip": self.clip,
            "rounding": self.rounding,
        }  # fmt: skip


@register
class BrightnessContrast(LinearImages):
    """{pivot + (1 + a)(x - pivot) + b : |a| <= contrast, |b| <= brightness}, those in the valid range if given.

    Args:
        x: [B, *input]. brightness, contrast: >= 0, one number or one per example [B].
        clip, rounding: as of `LinearImages`. pivot: as of `Contrast`.
    """

    def __init__(
        self,
        x: Tensor,
        brightness: float | Tensor,
        contrast: float | Tensor,
        clip: tuple[float, float] | None = None,
        pivot: float | None = None,
        rounding: float = ROUNDING,
    ) -> None:
        self.pivot = _pivot(pivot, clip)
        clean = finite(x, "x")
        radius = torch.stack([radii_of(brightness, clean), radii_of(contrast, clean)], 1)
        super().__init__(x, torch.stack([torch.ones_like(clean), clean - self.pivot], 1), radius, clip, rounding)

    @classmethod
    def examples(cls) -> list[Self]:
        return [cls(_image(), 0.1, 0.2), cls(_image(), 0.2, torch.tensor([0.0, 0.5]), (0, 1))]

    def describe(self) -> dict[str, object]:
        return {
            "kind": "brightness-contrast", "brightness": said(self.reach[:, 0]), "contrast": said(self.reach[:, 1]),
            "pivot": self.pivot, "clip": self.clip, "rounding": self.rounding,
        }  # fmt: skip


@register
class BiasField(LinearImages):
    """{x + f}, or {x (1 + f)}: f = sum_k e_k p_k a smooth field over the image, |f| <= eps, the same in all channels.

    p_k are the products of Chebyshev polynomials T_a(u) T_b(v) with a + b <= degree, u and v the row and the column
    scaled to [-1, 1], so that |p_k| <= 1; |e_k| <= eps / (number of them). A model of uneven light or coil sensitivity.

    Args:
        x: [B, *, H, W]. eps: >= 0, one number or one per example [B]. degree: >= 0; 0 is a change of brightness.
        clip, rounding: as of `LinearImages`. multiplicative: whether the field multiplies.
    """

    threat = "bias-field"
    nested = True

    def __init__(
        self,
        x: Tensor,
        eps: float | Tensor,
        degree: int = 2,
        clip: tuple[float, float] | None = None,
        multiplicative: bool = False,
        rounding: float = ROUNDING,
    ) -> None:
        if x.dim() < 3:
            raise ValueError(f"a bias field needs images [batch, *, height, width], got shape {tuple(x.shape)}")
        if not (isinstance(degree, int) and degree >= 0):
            raise ValueError(f"degree must be a whole number >= 0, got {degree!r}")
        self.eps, self.degree, self.multiplicative = radii_of(eps, x), degree, multiplicative
        fields = smooth_fields(x.shape[-2], x.shape[-1], degree).to(x.device)
        fields = fields.reshape(1, len(fields), *(1,) * (x.dim() - 3), *x.shape[-2:])
        directions = finite(x, "x").unsqueeze(1) * fields if multiplicative else fields.expand(1, -1, *x.shape[1:])
        radius = (self.eps / fields.shape[1]).unsqueeze(1).expand(-1, fields.shape[1])
        super().__init__(x, directions, radius, clip, rounding)

    @classmethod
    def around(cls, x: Tensor, eps: float | Tensor, clip: tuple[float, float] | None = None) -> InputSet:  # [B, *input]
        return cls(x, eps, clip=clip)

    @classmethod
    def examples(cls) -> list[Self]:
        return [
            cls(_image(), 0.3),
            cls(_image(), torch.tensor([0.2, 0.0]), 1, (0, 1)),
            cls(_image(), 0.2, 1, multiplicative=True),
        ]

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        chosen = super().select(index)
        chosen.eps = self.eps[index]
        return chosen

    def to(self, device: torch.device) -> Self:
        moved = super().to(device)
        moved.eps = self.eps.to(device)
        return moved

    def describe(self) -> dict[str, object]:
        return {
            "kind": "bias-field", "eps": said(self.eps), "degree": self.degree,
            "multiplicative": self.multiplicative, "clip": self.clip, "rounding": self.rounding,
        }  # fmt: skip


def smooth_fields(height: int, width: int, degree: int) -> Tensor:
    """Products T_a(u) T_b(v) of Chebyshev polynomials, a + b <= degree, on a grid over [-1, 1]^2: [terms, H, W]."""
    rows, columns = (_chebyshev(size, degree) for size in (height, width))
    pairs = [(a, b) for a in range(degree + 1) for b in range(degree + 1 - a)]
    return torch.stack([rows[a].unsqueeze(1) * columns[b] for a, b in pairs])


def _chebyshev(size: int, degree: int) -> Tensor:
    """T_0 ... T_degree at `size` equally spaced points of [-1, 1] (at 0 where there is one): [degree + 1, size]."""
    at = torch.linspace(-1, 1, size, dtype=torch.float64) if size > 1 else torch.zeros(1, dtype=torch.float64)
    values = [torch.ones_like(at), at]
    for _ in range(degree - 1):
        values.append(2 * at * values[-1] - values[-2])
    return torch.stack(values[: degree + 1])


def _pivot(pivot: float | None, clip: tuple[float, float] | None) -> float:
    if pivot is None:
        middle = 0.0 if clip is None else 0.5 * float(clip[0]) + 0.5 * float(clip[1])
        return middle if -torch.inf < middle < torch.inf else 0.0
    if not -torch.inf < float(pivot) < torch.inf:
        raise ValueError(f"pivot must be a finite number, got {pivot}")
    return float(pivot)


def _image() -> Tensor:  # [2, 1, 3, 3]
    return torch.linspace(0.05, 0.9, 18).reshape(2, 1, 3, 3)
