"""Bounds as a library: of outputs and of neurons by any method, as numbers and as linear functions of the input."""

from verifier.bounding.found import BoundsResult, Lines, NodeBounds
from verifier.bounding.run import bounds

__all__ = ["BoundsResult", "Lines", "NodeBounds", "bounds"]
