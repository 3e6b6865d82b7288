"""Work on an accelerator that nobody waits for: checks that are not read there, tensors that are sent there.

Whoever reads a number from an accelerator, as every check of values does, waits until it has done all that it was given
before, and it then waits for what it is given next. So does whoever moves a tensor there from ordinary memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_READ: ContextVar[bool] = ContextVar("values on an accelerator are read to be checked", default=True)


@contextmanager
def checked_before() -> Iterator[None]:
    """Inside, sets and specifications on an accelerator do not read what they are made of.

    For steps of training: their images, labels and radii were checked when the run began, and a number that is none
    shows in the loss. Values on the CPU, which cost nothing to read, are checked inside as well.
    """
    token = _READ.set(False)
    try:
        yield
    finally:
        _READ.reset(token)


def looked_at(x: Tensor) -> bool:  # [...]
    """Whether a check is to read what x holds."""
    return x.device.type == "cpu" or _READ.get()


def some(bad: Tensor) -> bool:  # [...] bool
    """Whether anything is bad, by a check that is to be read; False for one that is not."""
    return looked_at(bad) and bool(bad.any())


def sent(x: Tensor, device: torch.device) -> Tensor:  # [...]
    """x on a device, which is not waited for: work there goes on while the tensor is on its way."""
    if x.device.type != "cpu" or device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
