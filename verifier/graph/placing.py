"""A graph under construction whose values know where their batch lies: what a walk over a traced program builds on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from verifier.errors import UnsupportedError
from verifier.graph.emitter import Emitter, Var
from verifier.graph.layout import Laid, Layout, entry_numbers, found_layout
from verifier.ops.shape import Reshape


class Placing(Emitter):
    """Values are nodes with their batch in front (`Var`), or elsewhere (`Laid`). A batch of `batch` was traced."""

    batch: int
    node: torch.fx.Node  #: the traced operator that is being read

    def mixes(self) -> UnsupportedError:
        return self.unsupported(
            "it moves or mixes the batch dimension (dimension 0), along which examples must stay independent"
        )

    def rank(self, value: Var | Laid) -> int:
        """Dimensions of a value, the batch counted."""
        return len(self.shape(value)) + 1 if isinstance(value, Var) else len(self.shape(value.var))

    def traced_shape(self, value: Var | Laid) -> list[int]:
        """The shape that a value has in the traced program."""
        if isinstance(value, Var):
            return [self.batch, *self.shape(value)]
        shape = list(self.shape(value.var))
        shape[value.layout.dim] *= self.batch
        return shape

    def reshaped(self, var: Var, shape: Sequence[int]) -> Var:
        """The node in another shape (batch-free)."""
        return var if self.shape(var) == tuple(shape) else self.emit(Reshape(shape), var)

    def laid(self, value: Var | Laid) -> Laid:
        """A value with the place of its batch."""
        return value if isinstance(value, Laid) else Laid(self.reshaped(value, (1, *self.shape(value))), Layout(0))

    def settled(self, value: Laid) -> Var | Laid:
        """The value as a plain node where its batch is in front."""
        shape = self.shape(value.var)
        plain = value.layout.plain if self.batch > 1 else bool(shape) and shape[0] == 1
        return self.reshaped(value.var, shape[1:]) if plain else value

    def numbers(self, value: Var | Laid) -> Tensor:
        """The numbers of a value's entries, [*its shape in the traced program] float64."""
        if isinstance(value, Var):
            return entry_numbers((1, *self.shape(value)), Layout(0), self.batch)
        return entry_numbers(self.shape(value.var), value.layout, self.batch)

    def followed(self, var: Var, numbers: Tensor) -> Var | Laid:
        """The value that holds the node's entries of these numbers, where each example kept to itself.

        Args:
            numbers: [*shape in the traced program], as `entry_numbers` has them.
        """
        size = int(torch.Size(self.shape(var)).numel())
        found = found_layout(numbers.to(torch.int64), self.batch, size)
        if found is None:
            raise self.mixes()
        layout, index = found
        if layout.plain:
            return self.gathered(var, index[0])
        return Laid(self.gathered(var, index), layout)

    def ran(self, *args: Any, **kwargs: Any) -> Any:
        """The current operator on entry numbers or masks."""
        try:
            return self.node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise self.unsupported(f"its arguments cannot be followed: {error}") from error
