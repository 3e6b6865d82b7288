"""Rampart: decide, with evidence, whether any allowed perturbation of an input can change a network's answer."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "AttackResult": "verifier.attacking",
    "Certificate": "verifier.certificate",
    "CertificateError": "verifier.errors",
    "CrossCheck": "verifier.comparison",
    "InputError": "verifier.errors",
    "InternalError": "verifier.errors",
    "ModelError": "verifier.errors",
    "NetworkCascade": "verifier.network_cascade",
    "OnnxModel": "verifier.graph.onnx_model",
    "Reason": "verifier.verdict",
    "Report": "verifier.certification",
    "Result": "verifier.result",
    "StoreError": "verifier.errors",
    "Trust": "verifier.verdict",
    "UnsupportedError": "verifier.errors",
    "Verdict": "verifier.verdict",
    "Verifier": "verifier.api",
    "VerifierError": "verifier.errors",
    "attack": "verifier.attacking",
    "certified_radius": "verifier.radius",
    "certify": "verifier.certification",
    "crosscheck": "verifier.comparison",
    "import_torch": "verifier.graph.torch_import",
    "verify": "verifier.api",
}

__all__ = sorted(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: `verifier --help` needs no torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'verifier' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
