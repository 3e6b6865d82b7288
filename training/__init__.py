"""Trainers. They call the same differentiable stages that the verifier uses."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "AdversarialTraining": "training.methods.adversarial",
    "DualTraining": "training.methods.dual",
    "FastTraining": "training.methods.fast",
    "History": "training.history",
    "IntervalTraining": "training.methods.interval",
    "LayerwiseAdversarial": "training.methods.layerwise",
    "MixedTraining": "training.methods.mixed",
    "SdpTraining": "training.methods.sdp",
    "Standard": "training.methods.standard",
    "Trained": "training.run",
    "TrainingMethod": "training.method",
    "robust_loss": "training.dual_loss",
    "train": "training.run",
    "train_cascade": "training.cascade",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's help needs no torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
