"""Evidence of a VERIFIED: what the verifier keeps of it, and how a certificate is made of that.

Reading certificates and checking them is verifier/checker's. Nothing here is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verifier.certificate.evidence import Certificate, DualVariables, ExampleProof, StageRun, Witness

__all__ = ["Certificate", "DualVariables", "ExampleProof", "StageRun", "Witness"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'verifier.certificate' has no attribute {name!r}")
    return getattr(importlib.import_module("verifier.certificate.evidence"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
