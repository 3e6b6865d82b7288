"""Trainers. They call the same differentiable stages that the verifier uses."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "History": "training.history",
    "Method": "training.method",
    "Standard": "training.methods.standard",
    "Trained": "training.run",
    "robust_loss": "training.robust_loss",
    "train": "training.run",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's help needs no torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
