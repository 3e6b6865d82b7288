"""Modes of a model, training or not, that are put back module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module ends in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode inside, and afterwards every module in the mode that it was in."""
    with modes_kept(model):
        model.eval()
        yield
