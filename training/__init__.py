"""Trainers. They call the same differentiable stages that the verifier uses."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; at run time it is imported on first use
    from training.cascade import train_cascade
    from training.dual_loss import robust_loss
    from training.history import History
    from training.method import TrainingMethod
    from training.methods.adversarial import AdversarialTraining
    from training.methods.augmented import AugmentedTraining
    from training.methods.dual import DualTraining
    from training.methods.fast import FastTraining
    from training.methods.free import FreeTraining
    from training.methods.interval import IntervalTraining
    from training.methods.layerwise import LayerwiseAdversarial
    from training.methods.mixed import MixedTraining
    from training.methods.norms import NormTraining
    from training.methods.sabr import SabrTraining
    from training.methods.sdp import SdpTraining
    from training.methods.standard import Standard
    from training.methods.taps import TapsTraining
    from training.methods.trades import TradesTraining
    from training.run import Trained, train

_EXPORTS = {
    "AdversarialTraining": "training.methods.adversarial",
    "AugmentedTraining": "training.methods.augmented",
    "DualTraining": "training.methods.dual",
    "FastTraining": "training.methods.fast",
    "FreeTraining": "training.methods.free",
    "History": "training.history",
    "IntervalTraining": "training.methods.interval",
    "LayerwiseAdversarial": "training.methods.layerwise",
    "MixedTraining": "training.methods.mixed",
    "NormTraining": "training.methods.norms",
    "SabrTraining": "training.methods.sabr",
    "SdpTraining": "training.methods.sdp",
    "Standard": "training.methods.standard",
    "TapsTraining": "training.methods.taps",
    "TradesTraining": "training.methods.trades",
    "Trained": "training.run",
    "TrainingMethod": "training.method",
    "robust_loss": "training.dual_loss",
    "train": "training.run",
    "train_cascade": "training.cascade",
}

__all__ = [
    "AdversarialTraining",
    "AugmentedTraining",
    "DualTraining",
    "FastTraining",
    "FreeTraining",
    "History",
    "IntervalTraining",
    "LayerwiseAdversarial",
    "TrainingMethod",
    "MixedTraining",
    "NormTraining",
    "SabrTraining",
    "SdpTraining",
    "Standard",
    "TapsTraining",
    "TradesTraining",
    "Trained",
    "robust_loss",
    "train",
    "train_cascade",
]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line's help needs no torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
