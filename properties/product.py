"""Products of input sets: several inputs of a network, each with a set of its own, as one flat input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from properties.box import Box, LinfBall
from properties.input_set import Functional, InputSet, Local, register
from properties.l2 import L2Ball
from properties.lifted import one_example
from properties.record import SetRecord, written


@register
class Product(InputSet):
    """{(x_1, ..., x_P) : x_p in part p}, each x_p flattened, one after another.

    An input that is fixed is a part of one point, such as `LinfBall(x, 0.0)`. The support function is the sum of those
    of the parts.

    Args:
        parts: sets of one batch, of inputs of any shapes.

    Raises:
        ValueError: no part, or parts of different batches.
    """

    tightness = "that of its parts"

    def __init__(self, parts: Sequence[InputSet]) -> None:
        self.parts = tuple(parts)
        if not self.parts or not all(isinstance(part, InputSet) for part in self.parts):
            raise ValueError("a product is made of input sets, one for each input")
        batches = [part.batch for part in self.parts]
        if len(set(batches)) > 1:
            raise ValueError(f"the parts of a product must be of one batch, got batches of {batches}")
        self.sizes = [math.prod(part.shape) for part in self.parts]
        self.is_box = all(part.is_box for part in self.parts)  # type: ignore[misc]
        self.costly_projection = any(part.costly_projection for part in self.parts)  # type: ignore[misc]
        summed = [part.summed for part in self.parts]
        # each part's sums, and those of the parts: more terms for each entry than any part has
        self.summed = None if None in summed else max(filter(None, summed)) + len(summed)  # type: ignore[misc]

    @classmethod
    def examples(cls) -> list[Self]:
        x = torch.linspace(0, 1, 12).reshape(2, 6)
        first, last = x[:, :2].reshape(2, 1, 2), x[:, 2:].reshape(2, 2, 2)
        return [
            cls([LinfBall(first, 0.1), LinfBall(last, 0.0)]),
            cls([Box(first, first + 0.1), L2Ball(last, 0.3)]),
            cls([L2Ball(first, 0.2, (0, 1)), LinfBall(last, 0.1, (0, 1))]),
        ]

    @property
    def batch(self) -> int:
        return self.parts[0].batch

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(self.sizes),)

    def cut(self, x: Tensor) -> list[Tensor]:  # [N, inputs] -> [N, *input] of each part
        """The parts of points, in their own shapes."""
        return [t.reshape(len(x), *p.shape) for t, p in zip(x.split(self.sizes, 1), self.parts, strict=True)]

    def _joined(self, each: Callable[[InputSet, Tensor], Tensor], x: Tensor) -> Tensor:  # [B, inputs] -> [B, inputs]
        return torch.cat([each(p, t).flatten(1) for p, t in zip(self.parts, self.cut(x), strict=True)], 1)

    def _forms(self, form: Functional) -> Iterator[tuple[InputSet, Functional]]:
        for part, coefficients in zip(self.parts, form.dense().split(self.sizes, 2), strict=True):
            yield part, _Written(coefficients.unflatten(2, part.shape))

    def support(self, form: Functional) -> Tensor:  # [B, S]
        return _total([part.support(own) for part, own in self._forms(form)])

    def minimum(self, form: Functional) -> Tensor:  # [B, S]
        return _total([part.minimum(own) for part, own in self._forms(form)])

    def box(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:  # [B, inputs] each
        low, high = zip(*(part.box(dtype) for part in self.parts), strict=True)
        return torch.cat([t.flatten(1) for t in low], 1), torch.cat([t.flatten(1) for t in high], 1)

    def representable(self, dtype: torch.dtype) -> InputSet:
        parts = [part.representable(dtype) for part in self.parts]
        return self if all(new is old for new, old in zip(parts, self.parts, strict=True)) else Product(parts)

    def center(self) -> Tensor:  # [B, inputs]
        return torch.cat([part.center().flatten(1) for part in self.parts], 1)

    def contains(self, x: Tensor) -> Tensor:  # [B, inputs] -> bool [B]
        return torch.stack([p.contains(t) for p, t in zip(self.parts, self.cut(x), strict=True)]).all(0)

    def project(self, x: Tensor) -> Tensor:  # [B, inputs]
        return self._joined(lambda part, t: part.project(t), x)

    def unclipped(self) -> Product:
        free = [part.unclipped() for part in self.parts]
        return self if all(new is old for new, old in zip(free, self.parts, strict=True)) else Product(free)

    def steepest_ascent(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:  # [B, inputs] each
        cut = zip(self.parts, self.cut(x), self.cut(gradient), strict=True)
        return torch.cat([part.steepest_ascent(t, g, step).flatten(1) for part, t, g in cut], 1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # [B, inputs]
        return torch.cat([part.sample(generator).flatten(1) for part in self.parts], 1)

    def inside(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [B, inputs]
        return self._joined(lambda part, t: part.inside(t, dtype), x)

    def separate(self, x: Tensor) -> Tensor:  # [B, inputs]
        return self._joined(lambda part, t: part.separate(t), x)

    def select(self, index: Tensor) -> Self:  # [k] or bool [B]
        return type(self)([part.select(index) for part in self.parts])

    def to(self, device: torch.device) -> Self:
        return type(self)([part.to(device) for part in self.parts])

    def describe(self) -> dict[str, object]:
        return {"kind": "product", "parts": [part.describe() for part in self.parts]}

    def record(self) -> SetRecord:
        """Of boxes alone: the box that they make. Raises ValueError for other parts."""
        one_example(self)
        if not self.is_box:
            return super().record()
        lower, upper = self.box()
        return SetRecord("box", {}, {"lower": written(lower[0]), "upper": written(upper[0])})


def _total(values: Sequence[Tensor]) -> Tensor:  # [B, S] each
    return torch.stack(list(values)).sum(0)


class _Written:
    """A functional with all its coefficients written out: [B or 1, S, *input]."""

    def __init__(self, coefficients: Tensor) -> None:
        self.coefficients = coefficients

    @property
    def dtype(self) -> torch.dtype:
        return self.coefficients.dtype

    @property
    def device(self) -> torch.device:
        return self.coefficients.device

    def dot(self, x: Tensor) -> Tensor:  # [B, *input] -> [B, S]
        return torch.matmul(self.coefficients.flatten(2), x.flatten(1).unsqueeze(2)).squeeze(2)

    def abs_dot(self, radius: Tensor) -> Tensor:  # [B, *input] -> [B, S]
        return _Written(self.coefficients.abs()).dot(radius)

    def times(self, number: float) -> _Written:
        return _Written(self.coefficients * number)

    def combine(self, other: Any, sign: float) -> _Written:
        return _Written(self.coefficients + sign * other.dense())

    def envelope_abs_dot(self, half: Any, radius: Tensor) -> tuple[Tensor, Tensor]:  # [B, *input] -> [B, S] each
        return self.combine(half, -1.0).abs_dot(radius), self.combine(half, 1.0).abs_dot(radius)

    def norm(self, p: float) -> Tensor:  # [B or 1, S]
        norm = torch.linalg.vector_norm(self.coefficients.flatten(2), p, dim=-1)
        # squares that underflow are each less than the smallest normal number
        lost = (torch.finfo(norm.dtype).tiny * self.coefficients[0, 0].numel()) ** 0.5
        return norm if p == math.inf else torch.hypot(norm, norm.new_tensor(lost))

    def envelope_norm(self, half: Any, p: float) -> tuple[Tensor, Tensor]:  # [B or 1, S] each
        return self.combine(half, -1.0).norm(p), self.combine(half, 1.0).norm(p)

    def dense(self) -> Tensor:  # [B or 1, S, *input]
        return self.coefficients

    def local(self, margin: int = 0) -> Local:
        return Local(
            self.coefficients, 2, lambda x: x.unsqueeze(1), lambda values: values, lambda values: values,
            lambda values: values.unsqueeze(1),
        )  # fmt: skip
