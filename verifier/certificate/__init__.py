"""Evidence of a VERIFIED: what the verifier keeps of it, and how a certificate is made of that.

Reading certificates and checking them is verifier/checker's. Nothing here is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.certificate.certificate import Certificate, SetCertificate
    from verifier.certificate.proof import ExampleProof, SetProofs, StageRun
    from verifier.evidence import DualVariables

_HOMES = {
    "Certificate": "verifier.certificate.certificate",
    "DualVariables": "verifier.evidence",
    "ExampleProof": "verifier.certificate.proof",
    "SetCertificate": "verifier.certificate.certificate",
    "SetProofs": "verifier.certificate.proof",
    "StageRun": "verifier.certificate.proof",
}

__all__ = ["Certificate", "DualVariables", "ExampleProof", "SetCertificate", "SetProofs", "StageRun"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'verifier.certificate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
