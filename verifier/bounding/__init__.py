"""Bounds as a library: of outputs and of neurons by any method, as numbers and as linear functions of the input."""

from verifier.bounding.exact import ExactRange, exact_range
from verifier.bounding.found import BoundsResult, Lines, NodeBounds
from verifier.bounding.run import bounds

__all__ = ["BoundsResult", "ExactRange", "Lines", "NodeBounds", "bounds", "exact_range"]
