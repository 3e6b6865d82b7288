"""Rampart: decide, with evidence, whether any allowed perturbation of an input can change a network's answer."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verifier.shadows import refuse_shadows
from verifier.version import __version__ as __version__

if TYPE_CHECKING:  # what type checkers and editors see; at run time it is imported on first use
    from verifier.api import Verifier, verify
    from verifier.attack_radii import GrownAttack, attack_growing
    from verifier.attacking import AttackResult, attack
    from verifier.bounding import BoundsResult, ExactRange, Lines, NodeBounds, bounds, exact_range
    from verifier.certificate import Certificate
    from verifier.certification.certify import certify
    from verifier.certification.curve import Sweep
    from verifier.certification.merge import merge
    from verifier.certification.merge_sweeps import merge_sweeps
    from verifier.certification.report import Report
    from verifier.comparison import CrossCheck, crosscheck
    from verifier.errors import (
        CertificateError,
        InputError,
        InternalError,
        ModelError,
        StoreError,
        UnsupportedError,
        VerifierError,
    )
    from verifier.graph.onnx_model import OnnxModel
    from verifier.graph.torch_import import import_torch
    from verifier.network_cascade import NetworkCascade
    from verifier.questions import equivalent, monotonic
    from verifier.radius import certified_radius
    from verifier.report import html_report
    from verifier.result import Result
    from verifier.verdict import Reason, Trust, Verdict

refuse_shadows(Path(__file__).parent.parent)

_EXPORTS = {
    "AttackResult": "verifier.attacking",
    "BoundsResult": "verifier.bounding",
    "Certificate": "verifier.certificate",
    "CertificateError": "verifier.errors",
    "CrossCheck": "verifier.comparison",
    "ExactRange": "verifier.bounding",
    "GrownAttack": "verifier.attack_radii",
    "InputError": "verifier.errors",
    "InternalError": "verifier.errors",
    "Lines": "verifier.bounding",
    "ModelError": "verifier.errors",
    "NetworkCascade": "verifier.network_cascade",
    "NodeBounds": "verifier.bounding",
    "OnnxModel": "verifier.graph.onnx_model",
    "Reason": "verifier.verdict",
    "Report": "verifier.certification.report",
    "Result": "verifier.result",
    "StoreError": "verifier.errors",
    "Sweep": "verifier.certification.curve",
    "Trust": "verifier.verdict",
    "UnsupportedError": "verifier.errors",
    "Verdict": "verifier.verdict",
    "Verifier": "verifier.api",
    "VerifierError": "verifier.errors",
    "attack": "verifier.attacking",
    "attack_growing": "verifier.attack_radii",
    "bounds": "verifier.bounding",
    "certified_radius": "verifier.radius",
    "certify": "verifier.certification.certify",
    "crosscheck": "verifier.comparison",
    "equivalent": "verifier.questions",
    "exact_range": "verifier.bounding",
    "html_report": "verifier.report",
    "import_torch": "verifier.graph.torch_import",
    "merge": "verifier.certification.merge",
    "merge_sweeps": "verifier.certification.merge_sweeps",
    "monotonic": "verifier.questions",
    "verify": "verifier.api",
}

__all__ = [
    "AttackResult",
    "BoundsResult",
    "Certificate",
    "CertificateError",
    "CrossCheck",
    "ExactRange",
    "GrownAttack",
    "InputError",
    "InternalError",
    "Lines",
    "ModelError",
    "NetworkCascade",
    "NodeBounds",
    "OnnxModel",
    "Reason",
    "Report",
    "Result",
    "StoreError",
    "Sweep",
    "Trust",
    "UnsupportedError",
    "Verdict",
    "Verifier",
    "VerifierError",
    "attack",
    "attack_growing",
    "bounds",
    "certified_radius",
    "certify",
    "crosscheck",
    "equivalent",
    "exact_range",
    "html_report",
    "import_torch",
    "merge",
    "merge_sweeps",
    "monotonic",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `verifier --help` needs no torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'verifier' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
